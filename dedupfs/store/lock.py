"""The store's exclusive lock, which names the process that holds it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import StoreInUse
from dedupfs.core.format import STORE_FILES

if TYPE_CHECKING:
    from pathlib import Path


_LOOK_MAX_S: Final = 5.0
_PAUSE_S: Final = 0.01


class StoreLock:
    """Held from construction until `release`; the kernel drops it when the process dies."""

    def __init__(self, store: Path, holder: str) -> None:
        """Take the lock for `holder`, a mount point or a command; raise StoreInUse."""
        self._fd = os.open(
            store / STORE_FILES["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        if not take(self._fd):
            owner = _describe(os.pread(self._fd, 4096, 0))
            os.close(self._fd)
            raise StoreInUse(
                f"store {store} is in use by {owner}: unmount that first, or choose another --store"
            )
        text = json.dumps({"pid": os.getpid(), "holder": holder}).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text, 0)

    def release(self) -> None:
        """Give the lock back."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def take(fd: int) -> bool:
    """Lock the open file `fd` for this process alone; return False when another has it so.

    One that only looks, `dedupfs status` say, holds it shared, for a moment: it is waited for.
    """
    deadline = time.monotonic() + _LOOK_MAX_S
    while not _try(fd, fcntl.LOCK_EX):
        if not _try(fd, fcntl.LOCK_SH) or time.monotonic() > deadline:
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)
        time.sleep(_PAUSE_S)  # noqa: TID251 - a start serves nobody yet
    return True


def _try(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _describe(raw: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
        found = json.loads(raw)
        where = f" ({found['holder']})" if found["holder"] else ""
        return f"process {int(found['pid'])}{where}"
    return "another process"
