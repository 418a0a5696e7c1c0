"""How often the kernel was told of each inode: it has forgotten one when it gave back as many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dedupfs.core.types import Ino

# A million inodes are known at once, most of them once, and numbers of files made together are
# neighbours: 32 counts of 8 bits are one integer. Measured, a dict of counts takes 74 bytes for each
# of them, this 5; 150 for each where all others of a row are gone.
_ROW_BITS: Final = 5
_IN_ROW: Final = (1 << _ROW_BITS) - 1
_WIDTH_BITS: Final = 3
_MAX: Final = 0xFF
_MOVED: Final = 0x80  # this much of a count that is full goes to `_more`


class Lookups:
    """The counts; those not there are 0."""

    __slots__ = ("_more", "_rows")

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._more: dict[Ino, int] = {}  # what does not fit into 8 bits

    def add(self, ino: Ino) -> None:
        """Count one."""
        row, shift = ino >> _ROW_BITS, (ino & _IN_ROW) << _WIDTH_BITS
        counts = self._rows.get(row, 0)
        if counts >> shift & _MAX == _MAX:
            self._more[ino] = self._more.get(ino, 0) + _MOVED
            counts -= _MOVED << shift
        self._rows[row] = counts + (1 << shift)

    def take(self, ino: Ino, count: int) -> bool:
        """Take `count` back; return whether none is left."""
        row, shift = ino >> _ROW_BITS, (ino & _IN_ROW) << _WIDTH_BITS
        counts = self._rows.get(row, 0)
        here = counts >> shift & _MAX
        left = here - count
        if self._more and (more := self._more.pop(ino, 0)):
            left += more
            if left > _MAX:
                self._more[ino] = left - _MOVED
                left = _MOVED
        left = max(left, 0)
        counts += (left - here) << shift
        if counts:
            self._rows[row] = counts
        else:
            self._rows.pop(row, None)
        return not left

    def __contains__(self, ino: Ino) -> bool:
        return bool(self._rows.get(ino >> _ROW_BITS, 0) >> ((ino & _IN_ROW) << _WIDTH_BITS) & _MAX)
