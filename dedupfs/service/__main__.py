"""The daemon's process: `python -m dedupfs.service READY_FD OPTIONS`; `dedupfs mount` starts it."""

from __future__ import annotations

import os
import sys

from dedupfs.service import daemon
from dedupfs.service.launch import READY
from dedupfs.service.options import MountOptions


def main() -> int:
    """Serve one mount; say on the pipe how the start went."""
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)  # noqa: FBT003 - the standard library's signature

    def ready(failure: str | None) -> None:
        os.write(pipe, (READY if failure is None else failure).encode(errors="replace"))
        os.close(pipe)
        if failure is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stderr.fileno())
            os.close(nowhere)

    return daemon.run(MountOptions.from_json(sys.argv[2]), ready)


if __name__ == "__main__":
    sys.exit(main())
