"""Which directories the kernel may keep the listing of, and when it must drop it.

With FOPEN_CACHE_DIR the kernel keeps what a listing told it, and drops that when a program changes
the directory through it, or when it is told to (fs/fuse/readdir.c). Two things are left to us:

- It puts the parts of one kept listing together from all handles that may keep it. So of two
  listings at once only one may; and what a directory has gained when one of them begins, the others
  show, too: else the end of an older one would complete the newer one without it.
- A part told before a change may reach the kernel's cache after it was told to drop that. So it is
  told again when the listing under way has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.core.types import Ino


class Listing:
    """What the open handles of a directory have in common. Entries from cookie `stop` are new."""

    __slots__ = ("handles", "ino", "is_stale", "stop", "under_way")

    def __init__(self, ino: Ino) -> None:
        self.ino = ino
        self.handles = 0
        self.under_way = 0  # handles that have asked for a part, and not come to the end
        self.stop = 0
        self.is_stale = False  # the kernel was told to drop it while a part was on its way


class Listings:
    """The directories that have open handles."""

    def __init__(self) -> None:
        self._is_on = False
        self._drop: Callable[[Ino], None] = lambda _ino: None
        self._open: dict[Ino, Listing] = {}

    def serve_kernel(self, drop: Callable[[Ino], None]) -> None:
        """Use `drop` to tell the kernel that its listing of a directory is wrong."""
        self._drop = drop

    def enable(self, *, on: bool) -> None:
        """Say whether the kernel can be let keep listings."""
        self._is_on = on

    def may_keep(self, listing: Listing) -> bool:
        """Tell whether a handle just opened may fill and use what the kernel keeps."""
        return self._is_on and not listing.under_way

    def open(self, ino: Ino) -> Listing:
        """Take a handle of the directory into account."""
        listing = self._open.get(ino)
        if listing is None:
            listing = self._open[ino] = Listing(ino)
        listing.handles += 1
        return listing

    def close(self, listing: Listing) -> None:
        """Take it off; it is not under way any more."""
        listing.handles -= 1
        if not listing.handles:
            del self._open[listing.ino]

    def begin(self, listing: Listing) -> None:
        """Note that a handle asks for its first part."""
        listing.under_way += 1

    def end(self, listing: Listing) -> None:
        """Note that the kernel has all parts that it asked for through a handle."""
        listing.under_way -= 1
        if listing.is_stale and not listing.under_way:
            listing.is_stale = False
            self._drop(listing.ino)

    def forget(self, ino: Ino) -> None:
        """Let the kernel drop its listing of `ino`: the entries changed behind its back."""
        listing = self._open.get(ino)
        if listing is not None and listing.under_way:
            listing.is_stale = True
        self._drop(ino)
