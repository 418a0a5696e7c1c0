"""Which file of the store can be read in place of a mounted file, past the index.

A segment qualifies when it is the file byte for byte: same offsets, same size, zeros where the
file has holes. It is sealed for that: what a reader maps never changes and never grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedupfs.core.format import pair_key
from dedupfs.core.intervals import gaps
from dedupfs.core.types import FILE_MAX_BYTES
from dedupfs.store import extents, freeing, shares

if TYPE_CHECKING:
    from dedupfs.core.types import Ino, SegmentId
    from dedupfs.store.index import Index
    from dedupfs.store.segments import Segment, Segments
    from dedupfs.store.txn import Txn


class Backing:
    """A segment that is read past the index; it is not punched until `close`."""

    def __init__(self, segments: Segments, segment: Segment) -> None:
        self._segments = segments
        self._segment = segment
        segments.pin(segment.id)

    @property
    def fd(self) -> int:
        """The descriptor, open until `close` at least."""
        return self._segment.fd

    def close(self) -> None:
        """Let the segment be punched and removed again."""
        self._segments.unpin(self._segment.id)


def find(index: Index, segments: Segments, ino: Ino, size: int) -> Backing | None:
    """Return the segment that equals the file of `size` bytes, or None. Raises Damaged, NoSpace."""
    with index.read() as txn:
        found = extents.overlapping(txn, ino, 0, FILE_MAX_BYTES)
        if not found or index.counters.damaged_bytes:
            return None
        first = found[0]
        if any(e.segment != first.segment or e.shift for e in found):
            return None
        segment = segments.get(txn, first.segment)
        is_shared_pack = segment.written is not None and not segment.is_home
        if segment.size != size or is_shared_pack:
            return None
        for start, stop in gaps(((e.offset, e.stop) for e in found), 0, size):
            if not _is_hole(txn, first.segment, start, stop):
                return None
    if segment.written is not None:
        with index.write() as txn:
            freeing.seal(txn, segments, segment)
    return Backing(segments, segment)


def _is_hole(txn: Txn, segment: SegmentId, start: int, stop: int) -> bool:
    """Tell whether the bytes of a segment read as zeros: nobody's, and not waiting to be punched."""
    if any(r.start < stop and r.stop > start for r in shares.rows(txn, segment, start, stop)):
        return False
    return not any(txn.scan("frees", pair_key(segment, 0), pair_key(segment, stop)))
