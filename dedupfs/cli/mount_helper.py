"""`mount.dedupfs`: what mount(8) runs for type fuse.dedupfs, under one of several names.

libmount looks for /sbin/mount.fuse.dedupfs and calls it with
`STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]` (mount(8), "External helpers").
Without it, it calls /sbin/mount.fuse, which runs `dedupfs STORE MOUNTPOINT -o OPTIONS` from PATH
(libfuse util/mount.fuse.c). Both end here.
"""

from __future__ import annotations

import getopt
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.cli import errors
from dedupfs.cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_USAGE: Final = "usage: mount.dedupfs STORE MOUNTPOINT [-o OPTIONS]"
# The exit codes of mount(8).
_MOUNT_USAGE: Final = 1
_MOUNT_FAILURE: Final = 32


def main() -> None:
    """Mount as mount(8) asks; exit with its codes."""
    code = errors.exit_code(lambda: _run(sys.argv[1:]), name="mount.dedupfs")
    sys.exit({errors.REFUSED: _MOUNT_FAILURE, errors.USAGE: _MOUNT_USAGE}.get(code, code))


def _run(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(_USAGE)  # noqa: T201 - asked for
        return 0
    try:
        flags, words = getopt.gnu_getopt(list(arguments), "sfnvwro:t:N:")
    except getopt.GetoptError as error:
        raise UsageError(f"{error.msg}; {_USAGE}") from None
    if len(words) != 2:  # noqa: PLR2004 - STORE and MOUNTPOINT
        raise UsageError(_USAGE)
    lists = [value for flag, value in flags if flag == "-o"]
    names = {flag for flag, _ in flags}
    if "-r" in names:
        lists.append("ro")
    from dedupfs.cli import mounting  # noqa: PLC0415

    options = mounting.options(Path(words[1]), {"store": words[0]}, lists)
    return 0 if "-f" in names else mounting.mount(options)  # -f: all but the mount itself
