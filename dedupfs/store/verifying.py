"""Checking what is read against its fingerprints: the mount option `verify_reads`.

A read goes the checked way when it needs the disk, or when its bytes were not checked yet since the
store was opened: those in the page cache may have come from the disk before that. A warm read of
checked bytes costs no more than without the option.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dedupfs.core.chunking import fingerprint
from dedupfs.core.errors import Damaged
from dedupfs.core.intervals import IntervalSet
from dedupfs.store import chunks, damage

if TYPE_CHECKING:
    from dedupfs.core.types import SegmentId
    from dedupfs.store.chunks import Chunk
    from dedupfs.store.index import Index
    from dedupfs.store.segment_file import Segment
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn


class _Named(NamedTuple):
    segment: Segment
    chunk: Chunk
    name: bytes


class Verifier:
    """What was checked since the store was opened. Offsets are never written twice."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self._checked: dict[SegmentId, IntervalSet] = {}

    def check(self, txn: Txn, ranges: list[tuple[Segment, int, int]]) -> Check:
        """Return the check of a read of `ranges`: segment, offset, length."""
        named = [
            _Named(segment, chunk, name)
            for segment, offset, length in ranges
            for chunk, name in chunks.overlapping(txn, segment.id, offset, offset + length)
        ]
        return Check(self, ranges, named)

    def has(self, segment: SegmentId, start: int, stop: int) -> bool:
        """Tell whether all of the range was checked."""
        checked = self._checked.get(segment)
        if checked is None:
            return False
        # A byte further in: a range that only ends at `start` does not hold it.
        low, high = checked.run_around(start + 1)
        return low <= start and high >= stop

    def add(self, segment: SegmentId, start: int, stop: int) -> None:
        """Note a range as checked."""
        self._checked.setdefault(segment, IntervalSet()).add(start, stop)


class Check:
    """What one read has to compare. Bytes without a fingerprint are taken as they are."""

    def __init__(
        self, verifier: Verifier, ranges: list[tuple[Segment, int, int]], named: list[_Named]
    ) -> None:
        self._verifier = verifier
        self._ranges = ranges
        self._named = named
        self._repairs = verifier.segments.repairs
        self._rotten: list[_Named] = []
        self._ran = False
        self.is_done_before = all(
            verifier.has(segment.id, offset, offset + length) for segment, offset, length in ranges
        )

    def run(self) -> None:
        """Read and compare; may run in a worker thread. Raises Damaged."""
        for named in self._named:
            if (
                fingerprint(named.segment.read(named.chunk.offset, named.chunk.length))
                != named.name
            ):
                self._rotten.append(named)
        self._ran = True
        if self._rotten:
            first = self._rotten[0].chunk
            raise Damaged(
                f"segment {first.segment:x} at {first.offset} has other bytes than written"
            )

    def settle(self, index: Index) -> None:
        """Note what `run` found. Raises NoSpace."""
        if not self._ran:
            return
        if not self._rotten:
            for segment, offset, length in self._ranges:
                self._verifier.add(segment.id, offset, offset + length)
            for _segment, chunk, _name in self._named:
                self._verifier.add(chunk.segment, chunk.offset, chunk.offset + chunk.length)
            return
        if self._repairs != self._verifier.segments.repairs:
            return  # it may have been healed while it was read: the next read tells
        with index.write() as txn:
            for _segment, chunk, name in self._rotten:
                if chunks.find(txn, name) == chunk:
                    damage.mark(txn, chunk.segment, chunk.offset, chunk.offset + chunk.length)
