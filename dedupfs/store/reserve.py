"""Room set aside on the store's disk, for what must go on when that is full.

Removing files needs the journal and, now and then, new pages of the index. When they find no room
the reserve is given up for them. Until it can be made again nobody may store new bytes: what
removing files has freed must not be filled first.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_LEAST_BYTES: Final = 2 << 20
_STEP_BYTES: Final = 4 << 20
_BASE_BYTES: Final = 8 << 20
_PER_JOURNAL: Final = 4  # a small change may need a page


class Reserve:
    """The file `path`: allocated, never written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self.is_given = False
        self.is_short = False  # less than is wanted is set aside

    def give(self) -> bool:
        """Give the room back to the disk; return whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        self.is_given = self.is_short = True
        self._size = 0
        return True

    def restore(self, journal_bytes: int) -> bool:
        """Set room aside, as much as a fold of so large a journal may need, or as there is.

        Return whether new bytes may be stored: not after `give`, while there is none.
        """
        steps = -(-(_BASE_BYTES + _PER_JOURNAL * journal_bytes) // _STEP_BYTES)
        wanted = steps * _STEP_BYTES
        if self._size != wanted:
            self._take(wanted)
        self.is_short = self._size < wanted
        if self._size:
            self.is_given = False
        return not self.is_given

    def _take(self, wanted: int) -> None:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            self._size = min(self._size, wanted)
            size = wanted
            while size > max(self._size, _LEAST_BYTES - 1):
                if _allocates(fd, size):
                    self._size = size
                size -= _STEP_BYTES // 2
            os.ftruncate(fd, self._size)  # what a refused attempt may have taken, too
        finally:
            os.close(fd)
        if not self._size:
            self._path.unlink(missing_ok=True)


def _allocates(fd: int, size: int) -> bool:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        return False
    return True
