"""Whether there is room for what is about to be written: counted down, looked up when that ends.

`left` is how much may be written before the limits are looked at again; a write takes off an upper
bound of what it may allocate. So the limit is never passed, and a write costs a subtraction. What
is allocated and not yet in the index's counters (bytes pending in memory, blocks the file
system adds when it writes back, files being removed) counts as allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import NeedsRoom
from dedupfs.core.eviction import Limits, Load
from dedupfs.core.types import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.core.types import Ino
    from dedupfs.store.store import Store
    from dedupfs.vfs.inodes import OpenInode

UNLIMITED: Final = 1 << 62
# What the pages (on XFS 16 KiB, store.preallocation) at both ends of a piece, one in the home segment and one in the pack, may add, and a
# block of the file system's own map of each.
MARGIN_BYTES: Final = 24 * PAGE_BYTES
_MAP_SHARE: Final = 128  # ext4: 12 bytes of map for each 4 KiB, in the worst case
_LOOK_LEAST_BYTES: Final = 1 << 20


class Room:
    """The room of a store. `wake` is called when the pressure is above the high mark."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self.limits = limits
        self.left = 0
        self.files_left = 0
        self.writers: dict[Ino, OpenInode] = {}  # those with a Writer
        self.wake: Callable[[], None] = lambda: None

    def set_limits(self, limits: Limits) -> None:
        """Go by other limits from now on."""
        self.limits = limits
        self.expire()

    def expire(self) -> None:
        """Let the next write look again: others use the disk, too."""
        self.left = self.files_left = 0

    def load(self) -> Load:
        """Return what is taken, or about to be."""
        counters = self._store.index.counters
        pending = sum(_bound(live.pending_bytes) for live in self.writers.values())
        coming = pending + self._store.unsettled_bytes
        load = Load(counters.allocated_bytes + coming, counters.files, UNLIMITED)
        if self.limits.min_free_bytes:
            host = self._store.statvfs()
            free = host.f_bavail * host.f_frsize - coming
            load = load._replace(
                free_bytes=max(0, free), inodes=host.f_files, free_inodes=host.f_favail
            )
        return load

    def hard_left(self, load: Load) -> int:
        """Return how many bytes may be allocated before a limit."""
        limits = self.limits
        left = UNLIMITED
        if limits.capacity_bytes is not None:
            left = limits.capacity_bytes - load.allocated_bytes
        if limits.min_free_bytes and not limits.min_free_is_goal:
            left = min(left, load.free_bytes - limits.min_free_bytes)
        return left

    def admit(self, size: int) -> None:
        """Look whether `size` bytes more may be written. Raises NeedsRoom."""
        load = self.load()
        hard = self.hard_left(load)
        self.left = self._until_next_look(load, hard)
        if hard < size:
            self.wake()
            raise NeedsRoom(f"{size} bytes more would pass the limit", size=size)
        self.left -= size
        if self.left < 0:
            self.wake()  # this one passes the high mark, and may be the last

    def _until_next_look(self, load: Load, hard: int) -> int:
        limits = self.limits
        left = hard
        if load.pressure(limits) > limits.high_mark:
            self.wake()
            if limits.min_free_bytes and limits.min_free_is_goal:
                left = min(left, 64 * _LOOK_LEAST_BYTES)
            return left
        if limits.capacity_bytes is not None:
            left = min(left, int(limits.capacity_bytes * limits.high_mark) - load.allocated_bytes)
        if limits.min_free_bytes:
            margin = load.free_bytes - int(limits.min_free_bytes / limits.high_mark)
            left = min(left, max(margin // 2, _LOOK_LEAST_BYTES), hard)
        return left

    def admit_file(self) -> None:
        """Look whether one more file may be made. Raises NeedsRoom."""
        most = self.limits.max_files
        if most is None:
            self.files_left = UNLIMITED
            return
        files = self._store.index.counters.files
        if files > most * self.limits.high_mark:
            self.wake()
        self.files_left = int(most * self.limits.high_mark) - files
        if files >= most:
            raise NeedsRoom(f"{most} files are the limit", files=1)

    def fits(self, size: int, files: int) -> bool:
        """Tell whether so much may be added now."""
        most = self.limits.max_files
        if files and most is not None and self._store.index.counters.files + files > most:
            return False
        return not size or self.hard_left(self.load()) >= size

    def headroom(self) -> int | None:
        """Return what may be allocated beside what is pending; None: no limit."""
        left = self.hard_left(self.load())
        return None if left >= UNLIMITED else max(0, left)


def _bound(pending_bytes: int) -> int:
    """Return what placing the pending bytes of a file may allocate at most."""
    if not pending_bytes:
        return 0
    pages = -(-pending_bytes // PAGE_BYTES) * PAGE_BYTES
    return pages + MARGIN_BYTES + pages // _MAP_SHARE
