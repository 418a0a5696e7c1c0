"""Pinned units: never evicted. Asked for by a command, or by the attribute `user.dedupfs.pin`.

The attribute is set on the unit itself ("1" or "0"); on what is inside a unit, or above units, it is
refused with EINVAL, as the caller would not learn what was pinned. It reads as its unit's anywhere.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import InvalidArgument, NoSuchAttribute
from dedupfs.store import units

if TYPE_CHECKING:
    from dedupfs.core.types import Ino
    from dedupfs.vfs.inodes import Inodes

NAME: Final = b"user.dedupfs.pin"
_VALUES: Final = {b"1": True, b"0": False}


class Pins:
    """The pins of a mount."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes

    def pin(self, ino: Ino) -> Ino:
        """Pin the unit that `ino` is in; return it. Raises InvalidArgument above all units."""
        return self._set(ino, is_pinned=True)

    def unpin(self, ino: Ino) -> Ino:
        """Undo `pin`."""
        return self._set(ino, is_pinned=False)

    def value(self, ino: Ino) -> bytes:
        """Return what the attribute says. Raises NoSuchAttribute above all units."""
        with self._inodes.store.index.read() as txn:
            unit = self._inodes.units.of_path(txn, ino)
            found = units.get(txn, unit) if unit is not None else None
        if found is None:
            raise NoSuchAttribute(f"inode {ino} is in no unit")
        return b"1" if found.flags & units.PINNED else b"0"

    def set_value(self, ino: Ino, value: bytes) -> None:
        """Set the attribute. Raises InvalidArgument for another value, or what is no unit."""
        with self._inodes.store.index.read() as txn:
            is_unit = units.get(txn, ino) is not None
        if value not in _VALUES or not is_unit:
            raise InvalidArgument(f"{NAME!r}: want 1 or 0 on a unit, have {value!r} on {ino}")
        self._set(ino, is_pinned=_VALUES[value])

    def _set(self, ino: Ino, *, is_pinned: bool) -> Ino:
        with self._inodes.change() as change:
            unit = self._inodes.units.of_path(change.txn, ino)
            found = units.get(change.txn, unit) if unit is not None else None
            if found is None or unit is None:
                raise InvalidArgument(f"inode {ino} is in no unit")
            flags = found.flags | units.PINNED if is_pinned else found.flags & ~units.PINNED
            units.put(change.txn, unit, found, dataclasses.replace(found, flags=flags))
        return unit
