"""Listing directories, with cookies that stay right while entries come and go."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.errors import BadHandle, NotADirectory
from dedupfs.core.types import Cookie, Ino
from dedupfs.store import namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dedupfs.vfs.attributes import Attributes
    from dedupfs.vfs.inodes import Inodes
    from dedupfs.vfs.metadata import Metadata

DOT: Final = Cookie(1)
DOT_DOT: Final = Cookie(2)
_FIRST: Final = 3


class Listed(NamedTuple):
    """An entry of a listing."""

    name: bytes
    attributes: Attributes
    cookie: Cookie
    is_lookup: bool  # not so for `.` and `..` (fuse_direntplus_link of fs/fuse/readdir.c)


class _Scan:
    """An open directory. Entries made after its start are left out.

    Cookies only grow: a program that renames what it lists would otherwise list for ever.
    """

    __slots__ = ("ino", "stop")

    def __init__(self, ino: Ino, stop: int) -> None:
        self.ino = ino
        self.stop = stop


class Directories:
    """The operations on directory handles."""

    def __init__(self, inodes: Inodes, metadata: Metadata) -> None:
        self._inodes = inodes
        self._metadata = metadata
        self._scans: dict[int, _Scan] = {}
        self._next_handle = 1

    def opendir(self, ino: Ino) -> int:
        """Return a handle for readdir."""
        with self._inodes.store.index.read() as txn:
            if not stat.S_ISDIR(self._inodes.inode(txn, ino).mode):
                raise NotADirectory(f"inode {ino}")
        handle = self._next_handle
        self._next_handle += 1
        self._scans[handle] = _Scan(ino, self._inodes.store.index.counters.next_cookie)
        return handle

    def readdir(self, handle: int, after: int) -> Iterator[Listed]:
        """Yield the entries behind cookie `after`, 0 for all, which starts the scan anew.

        The caller counts the lookups (`count_lookup`) of those it takes, and calls nothing else
        until it is done with the iterator, which holds a snapshot of the index.
        """
        scan = self._scans.get(handle)
        if scan is None:
            raise BadHandle(f"directory handle {handle}")
        inodes = self._inodes
        if after == 0:
            scan.stop = inodes.store.index.counters.next_cookie
        with inodes.store.index.read() as txn:
            if after < DOT:
                yield Listed(b".", inodes.attributes(txn, scan.ino), DOT, is_lookup=False)
            if after < DOT_DOT:
                # The root's parent is itself, as at the top of any mount.
                parent = Ino(inodes.inode(txn, scan.ino).parent)
                yield Listed(b"..", inodes.attributes(txn, parent), DOT_DOT, is_lookup=False)
            start = max(after + 1, _FIRST)
            for cookie, ino, name in namespace.entries(txn, scan.ino, start=start, stop=scan.stop):
                yield Listed(name, inodes.attributes(txn, ino), cookie, is_lookup=True)

    async def fsyncdir(self, handle: int) -> None:
        """Make all that was done before durable."""
        if handle not in self._scans:
            raise BadHandle(f"directory handle {handle}")
        await self._metadata.sync()

    def releasedir(self, handle: int) -> None:
        """Close the handle."""
        if self._scans.pop(handle, None) is None:
            raise BadHandle(f"directory handle {handle}")
