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
    from dedupfs.vfs.listings import Listing
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
    """An open directory."""

    __slots__ = ("is_under_way", "listing")

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.is_under_way = False


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
        self._scans[handle] = _Scan(self._inodes.listings.open(ino))
        return handle

    def may_keep(self, handle: int) -> bool:
        """Tell whether the kernel may keep what it lists through the handle just opened."""
        return self._inodes.listings.may_keep(self._find(handle).listing)

    def readdir(self, handle: int, after: int) -> Iterator[Listed]:
        """Yield the entries behind cookie `after`, 0 for all, which starts the scan anew.

        Entries made since a scan of the directory was last started are left out: a program that
        renames what it lists would otherwise list for ever, as cookies only grow.
        The caller counts the lookups (`count_lookup`) of those it takes, and calls nothing else
        until it is done with the iterator, which holds a snapshot of the index.
        """
        scan = self._find(handle)
        ino = scan.listing.ino
        self._begin(scan, after)
        inodes = self._inodes
        at = after
        with inodes.store.index.read() as txn:
            if at < DOT:
                at = DOT
                yield Listed(b".", inodes.attributes(txn, ino), DOT, is_lookup=False)
            if at < DOT_DOT:
                at = DOT_DOT
                # The root's parent is itself, as at the top of any mount.
                parent = Ino(inodes.inode(txn, ino).parent)
                yield Listed(b"..", inodes.attributes(txn, parent), DOT_DOT, is_lookup=False)
            start = max(after + 1, _FIRST)
            stop = scan.listing.stop
            for at, found, name in namespace.entries(txn, ino, start=start, stop=stop):
                yield Listed(name, inodes.attributes(txn, found), at, is_lookup=True)
        if at == after:
            self._end(scan)

    def _begin(self, scan: _Scan, after: int) -> None:
        if after == 0 or not scan.is_under_way:
            scan.listing.stop = self._inodes.store.index.counters.next_cookie
        if not scan.is_under_way:
            scan.is_under_way = True
            self._inodes.listings.begin(scan.listing)

    def _end(self, scan: _Scan) -> None:
        if scan.is_under_way:
            scan.is_under_way = False
            self._inodes.listings.end(scan.listing)

    def _find(self, handle: int) -> _Scan:
        scan = self._scans.get(handle)
        if scan is None:
            raise BadHandle(f"directory handle {handle}")
        return scan

    async def fsyncdir(self, handle: int) -> None:
        """Make all that was done before durable."""
        self._find(handle)
        await self._metadata.sync()

    def releasedir(self, handle: int) -> None:
        """Close the handle."""
        scan = self._find(handle)
        del self._scans[handle]
        self._end(scan)
        self._inodes.listings.close(scan.listing)
