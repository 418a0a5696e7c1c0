"""Which file of the store can be read in place of a mounted file, past the index.

A segment qualifies when it is the file byte for byte: same offsets, same size, zeros where the
file has holes. It is sealed for that: what a reader maps never changes and never grows. Other
files are put together from reflinks, where the store's file system has them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from dedupfs.core.format import Extent, pair_key, unpack_extent
from dedupfs.core.intervals import gaps
from dedupfs.store import freeing, shares

if TYPE_CHECKING:
    from dedupfs.core.types import Ino
    from dedupfs.store.index import Index
    from dedupfs.store.reflinks import Plan, Reflinks
    from dedupfs.store.segment_file import Segment
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn


class Backing(Protocol):
    """A file of the store that is read past the index."""

    @property
    def fd(self) -> int:
        """The descriptor, open until `close` at least."""

    def close(self) -> None:
        """Let it be changed again."""


class _WholeSegment:
    """A segment that is read past the index; it is not punched until `close`."""

    def __init__(self, segments: Segments, segment: Segment) -> None:
        self._segments = segments
        self._segment = segment
        segments.show(segment.id)

    @property
    def fd(self) -> int:
        """The descriptor, open until `close` at least."""
        return self._segment.fd

    def close(self) -> None:
        """Let the segment be punched and removed again."""
        self._segments.unpin(self._segment.id)


def find(
    index: Index, segments: Segments, reflinks: Reflinks, ino: Ino, size: int
) -> Backing | None:
    """Return the file that equals the mounted one of `size` bytes, or None.

    Raises Damaged, NoSpace.
    """
    if index.counters.damaged_bytes:
        return None
    with index.read() as txn:
        segment = _whole_segment(txn, segments, ino, size)
    if segment is None:
        return reflinks.find(ino, size)
    if segment.written is not None:
        with index.write() as txn:
            freeing.seal(txn, segments, segment)
    if os.fstat(segment.fd).st_size != size:
        return None
    return _WholeSegment(segments, segment)


def plan(index: Index, segments: Segments, reflinks: Reflinks, ino: Ino, size: int) -> Plan | None:
    """Return how to make what `find` would then find; None when it need not or cannot be made.

    Raises Damaged, NoSpace, OSError.
    """
    if reflinks.why_not or index.counters.damaged_bytes:
        return None
    with index.read() as txn:
        if _whole_segment(txn, segments, ino, size) is not None:
            return None
        return reflinks.plan(txn, ino, size)


def why_not(index: Index, segments: Segments, reflinks: Reflinks, ino: Ino, size: int) -> str:
    """Return why `find` would find nothing at the next open, "" when it would. Raises Damaged."""
    if not size:
        return "it is empty"
    if index.counters.damaged_bytes:
        return "some stored bytes are damaged: dedupfs scrub names the files"
    with index.read() as txn:
        if _whole_segment(txn, segments, ino, size) is not None:
            return ""
    return reflinks.why_not and f"it does not equal a segment, and: {reflinks.why_not}"


def _whole_segment(txn: Txn, segments: Segments, ino: Ino, size: int) -> Segment | None:
    found = _in_place(txn, ino)
    if not found:
        return None
    segment = segments.get(txn, found[0].segment)
    is_shared_pack = segment.written is not None and not segment.is_home
    if segment.size != size or is_shared_pack:
        return None
    holes = gaps(((e.offset, e.stop) for e in found), 0, size)
    if not all(_is_hole(txn, segment, start, stop) for start, stop in holes):
        return None
    return segment


def _in_place(txn: Txn, ino: Ino) -> list[Extent]:
    """Return all extents of a file that lies in one segment at its own offsets, else nothing."""
    found: list[Extent] = []
    for key, value in txn.scan("extents", pair_key(ino, 0), pair_key(ino + 1, 0)):
        extent = unpack_extent(key, value)
        if extent.shift or (found and extent.segment != found[0].segment):
            return []  # at the first: a file may have millions
        found.append(extent)
    return found


def _is_hole(txn: Txn, segment: Segment, start: int, stop: int) -> bool:
    """Tell whether the bytes of a segment read as zeros: nobody's, and really punched.

    Only whole pages are punched, and an undone transaction leaves bytes that no table knows.
    """
    if any(r.start < stop and r.stop > start for r in shares.rows(txn, segment.id, start, stop)):
        return False
    if any(txn.scan("frees", pair_key(segment.id, 0), pair_key(segment.id, stop))):
        return False
    return segment.reads_as_zeros(start, stop)
