"""What people may want to know of one file: what it takes, and how it is read."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from dedupfs.core.errors import IsADirectory, NotSupported
from dedupfs.store import affected

if TYPE_CHECKING:
    from dedupfs.core.types import Ino
    from dedupfs.store.store import Usage
    from dedupfs.vfs.files import Files
    from dedupfs.vfs.inodes import Inodes


class Inspection(NamedTuple):
    """A regular file."""

    size_bytes: int
    links: int
    usage: Usage
    damaged_bytes: int
    handles: int
    is_passed: bool  # is read past this process, or would be by the next open
    why_not_passed: str


class Inspector:
    """Looks at files; places what is written of them, changes nothing else."""

    def __init__(self, inodes: Inodes, files: Files) -> None:
        self._inodes = inodes
        self._files = files

    def inspect(self, ino: Ino) -> Inspection:
        """Return what there is to know. Raises IsADirectory, NotSupported, NoSuchName, NoSpace."""
        self._files.flush_inode(ino)
        inode = self._inodes.getattr(ino).inode
        if stat.S_ISDIR(inode.mode):
            raise IsADirectory("a folder: dedupfs du shows what it holds")
        if not stat.S_ISREG(inode.mode):
            raise NotSupported("not a regular file: it has no bytes")
        live = self._inodes.live.get(ino)
        why_not = self._why_not(ino, inode.size)
        with self._inodes.store.index.read() as txn:
            damaged_bytes = affected.damaged_bytes(txn, ino)
        return Inspection(
            size_bytes=inode.size,
            links=inode.nlink,
            usage=self._inodes.store.usage(ino),
            damaged_bytes=damaged_bytes,
            handles=live.handles if live else 0,
            is_passed=not why_not,
            why_not_passed=why_not,
        )

    def _why_not(self, ino: Ino, size: int) -> str:
        live = self._inodes.live.get(ino)
        if not self._files.passthrough.is_enabled:
            return "this mount has no passthrough"
        if live is not None:
            return "" if live.passed else "it was opened before it could be: until all close it"
        return self._inodes.store.why_no_backing(ino, size)
