"""Extended attributes: stored ones, and those that say what a file shares."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import (
    InvalidArgument,
    NameTooLong,
    NoSuchAttribute,
    NotPermitted,
    NotSupported,
)
from dedupfs.core.types import NAME_MAX_BYTES
from dedupfs.store import namespace
from dedupfs.vfs.pins import NAME as PIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dedupfs.core.types import Ino
    from dedupfs.store.store import Usage
    from dedupfs.vfs.files import Files
    from dedupfs.vfs.inodes import Inodes
    from dedupfs.vfs.pins import Pins

_STORED: Final = (b"user.", b"trusted.", b"security.")
_OURS: Final = b"user.dedupfs."
COMPUTED: Final[Mapping[bytes, Callable[[Usage], int]]] = {
    b"user.dedupfs.logical": lambda usage: usage.logical,
    b"user.dedupfs.physical_share": lambda usage: usage.physical_share,
    b"user.dedupfs.exclusive": lambda usage: usage.exclusive,
    b"user.dedupfs.extents": lambda usage: usage.extents,
}


class Xattrs:
    """The operations on extended attributes."""

    def __init__(self, inodes: Inodes, files: Files, pins: Pins) -> None:
        self._pins = pins
        self._inodes = inodes
        self._files = files

    def getxattr(self, ino: Ino, name: bytes) -> bytes:
        """Return a value. Raises NoSuchAttribute, NotSupported."""
        compute = COMPUTED.get(name)
        if compute is not None:
            return self._computed(ino, name, compute)
        if name == PIN:
            return self._pins.value(ino)
        _check_name(name)
        with self._inodes.store.index.read() as txn:
            value = namespace.get_xattr(txn, ino, name)
        if value is None:
            raise NoSuchAttribute(f"{name!r} of {ino}")
        return value

    def listxattr(self, ino: Ino, *, privileged: bool) -> list[bytes]:
        """Return the names of the stored attributes; `trusted.` ones only to the privileged."""
        with self._inodes.store.index.read() as txn:
            names = namespace.list_xattrs(txn, ino)
        return [name for name in names if privileged or not name.startswith(b"trusted.")]

    def setxattr(self, ino: Ino, name: bytes, value: bytes) -> None:
        """Set a value. Raises NotPermitted for the computed ones, NotSupported, NameTooLong."""
        if name == PIN:
            self._pins.set_value(ino, value)
            return
        _check_change(name)
        with self._inodes.change() as change:
            change.put_with_ctime(ino)
            namespace.put_xattr(change.txn, ino, name, value)

    def removexattr(self, ino: Ino, name: bytes) -> None:
        """Remove an attribute. Raises NoSuchAttribute and what setxattr raises."""
        if name == PIN:
            self._pins.set_value(ino, b"0")
            return
        _check_change(name)
        with self._inodes.change() as change:
            change.put_with_ctime(ino)
            if not namespace.remove_xattr(change.txn, ino, name):
                raise NoSuchAttribute(f"{name!r} of {ino}")

    def _computed(self, ino: Ino, name: bytes, compute: Callable[[Usage], int]) -> bytes:
        if not stat.S_ISREG(self._inodes.getattr(ino).inode.mode):
            raise NoSuchAttribute(f"{name!r} of {ino}, which has no bytes")
        self._files.flush_inode(ino)
        return str(compute(self._inodes.store.usage(ino))).encode("ascii")


def _check_name(name: bytes) -> None:
    if len(name) > NAME_MAX_BYTES:
        raise NameTooLong(f"attribute name of {len(name)} bytes, limit {NAME_MAX_BYTES}")
    if not name.startswith(_STORED):
        raise NotSupported(f"attribute {name!r}")
    if name in _STORED:
        raise InvalidArgument(f"attribute {name!r} has no name behind its namespace")


def _check_change(name: bytes) -> None:
    if name.startswith(_OURS):
        raise NotPermitted(f"attribute {name!r} is computed")
    _check_name(name)
