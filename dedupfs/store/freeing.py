"""When space goes back to the disk: sealing, and punching or removing what nobody uses.

A freed range waits in `frees` until `reclaim` looks whether it is still unused: a writer may have
shared the bytes again meanwhile, and a worker thread may still be reading them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from dedupfs.core.format import U64, pair_key, unpack_pair
from dedupfs.core.intervals import IntervalSet, gaps
from dedupfs.core.types import PAGE_BYTES, SegmentId
from dedupfs.store import shares
from dedupfs.store.segments import get_row

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.store.checkpoint import Checkpoints
    from dedupfs.store.index import Index
    from dedupfs.store.segment_file import Segment
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn

log = logging.getLogger(__name__)

RECLAIM_ROWS: Final = 64  # a batch stalls other requests for its time


def seal(txn: Txn, segments: Segments, segment: Segment) -> None:
    """Seal `segment`; what was written to it and never came to be used is freed."""
    if segment.written is None:
        return
    written = list(segment.written)
    if get_row(txn, segment.id) is None:
        segments.discard(segment)
        return
    segments.seal(txn, segment)
    stop = written[-1][1]
    used = [(row.start, row.stop) for row in shares.rows(txn, segment.id, 0, stop)]
    for start, end in written:
        for gap_start, gap_stop in gaps(used, start, end):
            shares.note_free(txn, segment.id, gap_start, gap_stop)


def reclaim(
    index: Index, segments: Segments, checkpoints: Checkpoints, limit: int = RECLAIM_ROWS
) -> tuple[list[Path], bool]:
    """Punch up to `limit` ranges that were freed before the last checkpoint and are still unused.

    Returns the files of segments without a user left, which the caller removes (they are out of
    the index already), and whether there is more to do at once.
    """
    if not index.counters.pending_free_bytes:
        return [], False
    doomed: list[Path] = []
    done = 0
    with index.write() as txn:
        rows = _marked_rows(txn, segments, checkpoints, limit)
        for segment, start, stop, keys in _runs(rows):
            freeing = _Freeing(txn, segments, checkpoints, segment)
            try:
                doomed += freeing.free(start, stop)
            except OSError as error:
                # It stays until after the next checkpoint, and must not hold up the others.
                level = logging.DEBUG if isinstance(error, BlockingIOError) else logging.WARNING
                log.log(level, "segment %016x at %d is not freed yet: %s", segment, start, error)
                checkpoints.held_up.add(segment)
                continue
            done += len(keys)
            for key in keys:
                txn.delete("frees", key)
            txn.counters.pending_free_bytes -= stop - start
    return doomed, done > 0 and len(rows) == limit


def _runs(rows: list[tuple[bytes, bytes]]) -> list[tuple[SegmentId, int, int, list[bytes]]]:
    """Return the ranges of `rows`, those that touch as one, with their keys.

    A punch costs 1.5 ms on ext4 whatever its length: files of a pack that go together lie side by side.
    """
    found: list[tuple[SegmentId, int, int, list[bytes]]] = []
    for key, value in rows:
        segment, start = unpack_pair(key)
        stop = start + U64.unpack(value)[0]
        if found and found[-1][0] == segment and found[-1][2] == start:
            found[-1] = (*found[-1][:2], stop, [*found[-1][3], key])
        else:
            found.append((SegmentId(segment), start, stop, [key]))
    return found


def _marked_rows(
    txn: Txn, segments: Segments, checkpoints: Checkpoints, limit: int
) -> list[tuple[bytes, bytes]]:
    """Return freed ranges that no checkpoint needs, of segments nobody reads past the index."""
    rows: list[tuple[bytes, bytes]] = []
    start: bytes | None = b""
    while start is not None:
        after, start = start, None
        for key, value in txn.scan("frees", after):
            segment, at = unpack_pair(key)
            if segments.is_pinned(SegmentId(segment)) or segment in checkpoints.held_up:
                start = pair_key(segment + 1, 0)
                break
            if checkpoints.is_marked(segment, at):
                rows.append((key, value))
                if len(rows) == limit:
                    break
    return rows


class _Freeing:
    """Frees ranges of one segment."""

    def __init__(
        self, txn: Txn, segments: Segments, checkpoints: Checkpoints, segment: SegmentId
    ) -> None:
        self._txn = txn
        self._segments = segments
        self._segment = segment
        self._checkpoints = checkpoints

    def free(self, start: int, stop: int) -> list[Path]:
        """Punch what is unused of a range; return the file to remove if the segment is."""
        if get_row(self._txn, self._segment) is None:
            return []
        is_open = self._segments.opened(self._segment) is not None
        is_marked = self._checkpoints.is_all_marked(self._segment)
        if not is_open and is_marked and self._is_unused():
            return [self._segments.forget(self._txn, self._segment)]
        # A page goes when all users of its bytes are gone, whoever was last.
        low, high = start - start % PAGE_BYTES, stop + -stop % PAGE_BYTES
        for gap_start, gap_stop in gaps(self._used(low, high), low, high):
            first, last = gap_start + -gap_start % PAGE_BYTES, gap_stop - gap_stop % PAGE_BYTES
            if first < last and not self._is_unwritten(first, last):
                self._segments.punch(self._txn, self._segment, first, last)
        return []

    def _is_unused(self) -> bool:
        first, last = pair_key(self._segment, 0), pair_key(self._segment + 1, 0)
        return next(self._txn.scan("shares", first, last), None) is None

    def _used(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return what files use of the range, now or after a power cut."""
        rows = shares.rows(self._txn, self._segment, start, stop)
        used = IntervalSet((row.start, row.stop) for row in rows)
        freed = [self._txn.floor("frees", pair_key(self._segment, start))]
        first, last = pair_key(self._segment, start + 1), pair_key(self._segment, stop)
        freed += self._txn.scan("frees", first, last)
        for key, value in filter(None, freed):
            segment, at = unpack_pair(key)
            if segment == self._segment and not self._checkpoints.is_marked(segment, at):
                used.add(at, at + U64.unpack(value)[0])
        return [(low, high) for low, high in used if low < stop and high > start]

    def _is_unwritten(self, start: int, stop: int) -> bool:
        """Tell whether the segment is open and may yet be written there."""
        found = self._segments.opened(self._segment)
        return found is not None and found.is_free(start, stop)
