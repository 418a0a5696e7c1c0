"""What all writers of a store share: the index, the segments, the open pack segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from dedupfs.store import freeing

if TYPE_CHECKING:
    from dedupfs.core.chunking import Cutting
    from dedupfs.store.index import Index
    from dedupfs.store.segment_file import Segment
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn

PACK_MAX_BYTES: Final = 64 << 20


class Shelf:
    """Where unique bytes go; one for a store."""

    def __init__(self, index: Index, segments: Segments) -> None:
        self.index = index
        self.segments = segments
        self._pack: Segment | None = None
        self.cuttings: WeakSet[Cutting] = WeakSet()  # pending windows, gone when placed

    def pack_room(self, txn: Txn, length: int) -> tuple[Segment, int]:
        """Return a pack segment and the offset at which `length` bytes fit."""
        pack = self._pack
        if pack is not None and pack.size + length > PACK_MAX_BYTES:
            self.let_go(txn, pack)
        # Sealed here, or by a transaction that was undone since.
        if pack is None or pack.written is None:
            self._pack = pack = self.segments.create(is_home=False)
            pack.users = 1
        return pack, pack.size

    def let_go(self, txn: Txn, segment: Segment) -> None:
        """One writer less appends to `segment`; after the last it is sealed."""
        segment.users -= 1
        if segment.users == 0:
            freeing.seal(txn, self.segments, segment)

    def close(self) -> None:
        """Seal the pack segment."""
        if self._pack is not None:
            with self.index.write() as txn:
                self.let_go(txn, self._pack)
            self._pack = None
