"""Which stored bytes are known not to be what was written: the table `damaged`.

Rows of one segment are disjoint and do not touch. `damaged_bytes` is their sum, so that nothing is
looked up while there is no damage. Reads that touch a row fail; a row goes when its bytes are put
back, are found whole after all, or are freed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedupfs.core.errors import Corrupt
from dedupfs.core.format import U64, pair_key, unpack_pair
from dedupfs.core.intervals import gaps
from dedupfs.core.types import SegmentId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dedupfs.store.txn import Txn


def overlapping(txn: Txn, segment: SegmentId, start: int, stop: int) -> list[tuple[int, int]]:
    """Return the damaged ranges, whole, that have bytes in `start..stop`, in order."""
    if not txn.counters.damaged_bytes:
        return []
    return [row for row in _near(txn, segment, start, stop) if row[0] < stop and row[1] > start]


def mark(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    """Note `start..stop` as damaged."""
    if start >= stop:
        return
    near = _near(txn, segment, start, stop)
    for row in near:
        _remove(txn, segment, *row)
        start, stop = min(start, row[0]), max(stop, row[1])
    _add(txn, segment, start, stop)


def clear(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    """Note `start..stop` as not damaged."""
    for row in overlapping(txn, segment, start, stop):
        _remove(txn, segment, *row)
        for kept_start, kept_stop in gaps([(start, stop)], *row):
            _add(txn, segment, kept_start, kept_stop)


def every(txn: Txn) -> Iterator[tuple[SegmentId, int, int]]:
    """Yield all damaged ranges as segment, start, stop; the table must not change meanwhile."""
    for key, value in txn.scan("damaged", b""):
        segment, start = unpack_pair(key)
        yield SegmentId(segment), start, start + _length(value)


def _near(txn: Txn, segment: SegmentId, start: int, stop: int) -> list[tuple[int, int]]:
    """Return the rows that overlap or touch `start..stop`."""
    found: list[tuple[int, int]] = []
    before = txn.floor("damaged", pair_key(segment, start))
    if before is not None:
        owner, at = unpack_pair(before[0])
        if owner == segment and at + _length(before[1]) >= start:
            found.append((at, at + _length(before[1])))
    for key, value in txn.scan(
        "damaged", pair_key(segment, start + 1), pair_key(segment, stop + 1)
    ):
        at = unpack_pair(key)[1]
        found.append((at, at + _length(value)))
    return found


def _length(value: bytes) -> int:
    if len(value) != U64.size:
        raise Corrupt(f"damaged range: {len(value)} bytes, want {U64.size}")
    return int(U64.unpack(value)[0])


def _add(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    txn.put("damaged", pair_key(segment, start), U64.pack(stop - start))
    txn.counters.damaged_bytes += stop - start


def _remove(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    txn.delete("damaged", pair_key(segment, start))
    txn.counters.damaged_bytes -= stop - start
