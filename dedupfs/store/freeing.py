"""When space goes back to the disk: sealing, and punching or removing what nobody uses.

A freed range waits in `frees` until `reclaim` looks whether it is still unused: a writer may have
shared the bytes again meanwhile, and a worker thread may still be reading them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dedupfs.core.format import U64, pair_key, unpack_pair
from dedupfs.core.intervals import gaps
from dedupfs.core.types import PAGE_BYTES, SegmentId
from dedupfs.store import shares
from dedupfs.store.segments import get_row

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.store.index import Index, Txn
    from dedupfs.store.segments import Segment, Segments

RECLAIM_ROWS: Final = 64  # a batch stalls other requests for its time


def seal(txn: Txn, segments: Segments, segment: Segment) -> None:
    """Seal `segment`; what was written to it and never came to be used is freed."""
    written = list(segment.written or ())
    if get_row(txn, segment.id) is None:
        segments.discard(segment)
        return
    segments.seal(txn, segment)
    stop = written[-1][1]
    used = [(row.start, row.stop) for row in shares.rows(txn, segment.id, 0, stop)]
    for start, end in written:
        for gap_start, gap_stop in gaps(used, start, end):
            shares.note_free(txn, segment.id, gap_start, gap_stop)


def reclaim(index: Index, segments: Segments, limit: int = RECLAIM_ROWS) -> tuple[list[Path], bool]:
    """Punch up to `limit` freed ranges that are still unused.

    Returns the files of segments without a user left, which the caller removes (they are out of
    the index already), and whether there is more to do at once.
    """
    doomed: list[Path] = []
    if not index.counters.pending_free_bytes:
        return doomed, False
    done = 0
    with index.write() as txn:
        rows: list[tuple[bytes, bytes]] = []
        for row in txn.scan("frees", b""):
            rows.append(row)
            if len(rows) == limit:
                break
        for key, value in rows:
            segment, start = unpack_pair(key)
            stop = start + U64.unpack(value)[0]
            path = _free(txn, segments, SegmentId(segment), start, stop)
            if path is None:
                continue
            done += 1
            doomed.extend(path)
            txn.delete("frees", key)
            txn.counters.pending_free_bytes -= stop - start
    return doomed, done > 0 and len(rows) == limit


def _free(
    txn: Txn, segments: Segments, segment: SegmentId, start: int, stop: int
) -> list[Path] | None:
    """Punch what is unused of a range; None when it has to wait, else the files to remove."""
    if segments.is_pinned(segment):
        return None
    if get_row(txn, segment) is None:
        return []
    if not segments.is_open(segment) and _is_unused(txn, segment):
        return [segments.forget(txn, segment)]
    # A page goes when all users of its bytes are gone, whoever was last.
    low, high = start - start % PAGE_BYTES, stop + -stop % PAGE_BYTES
    used = [(row.start, row.stop) for row in shares.rows(txn, segment, low, high)]
    for gap_start, gap_stop in gaps(used, low, high):
        first, last = gap_start + -gap_start % PAGE_BYTES, gap_stop - gap_stop % PAGE_BYTES
        if first < last and not _is_unwritten(segments, segment, first, last):
            segments.punch(txn, segment, first, last)
    return []


def _is_unused(txn: Txn, segment: SegmentId) -> bool:
    for _row in txn.scan("shares", pair_key(segment, 0), pair_key(segment + 1, 0)):
        return False
    return True


def _is_unwritten(segments: Segments, segment: SegmentId, start: int, stop: int) -> bool:
    """Tell whether an open segment may yet be written within the range's pages."""
    found = segments.opened(segment)
    return found is not None and found.is_free(start, stop)
