"""How many extents use which bytes of a segment: an interval map, as XFS's refcount btree.

Bytes whose count reaches zero are forgotten by the chunk index at once and noted in `frees`; the
reclaimer punches them later, and only if nobody uses them again by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedupfs.core.errors import Corrupt
from dedupfs.core.format import SHARE, U64, pair_key, unpack_pair
from dedupfs.core.intervals import Counted, add_count, drop_count
from dedupfs.core.types import FILE_MAX_BYTES
from dedupfs.store import chunks, damage

if TYPE_CHECKING:
    from dedupfs.core.types import SegmentId
    from dedupfs.store.txn import Txn


def rows(txn: Txn, segment: SegmentId, start: int, stop: int) -> list[Counted]:
    """Return the counted ranges that overlap or touch `start..stop`, in order."""
    found: list[Counted] = []
    before = txn.floor("shares", pair_key(segment, max(start - 1, 0)))
    if before is not None:
        row = _unpack(segment, *before)
        if row is not None and row.stop >= start:
            found.append(row)
    first = pair_key(segment, max(found[0].start + 1, start) if found else start)
    for key, value in txn.scan("shares", first, pair_key(segment, stop + 1)):
        row = _unpack(segment, key, value)
        if row is not None:
            found.append(row)
    return found


def stop_of(txn: Txn, segment: SegmentId) -> int:
    """Return the end of the last used byte of a segment; 0 when it has none."""
    last = txn.floor("shares", pair_key(segment, FILE_MAX_BYTES))
    row = _unpack(segment, *last) if last is not None else None
    return row.stop if row is not None else 0


def add(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    """Count one more user of `start..stop`."""
    old = rows(txn, segment, start, stop)
    new = add_count(old, start, stop)
    txn.counters.live_bytes += _total(new) - _total(old)
    _replace(txn, segment, old, new)


def drop(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    """Count one user of `start..stop` less; what nobody uses any more is freed."""
    old = rows(txn, segment, start, stop)
    try:
        new, freed = drop_count(old, start, stop)
    except ValueError as error:
        raise Corrupt(f"share counts of segment {segment}: {error}") from error
    _replace(txn, segment, old, new)
    for freed_start, freed_stop in freed:
        txn.counters.live_bytes -= freed_stop - freed_start
        chunks.forget(txn, segment, freed_start, freed_stop)
        damage.clear(txn, segment, freed_start, freed_stop)
        note_free(txn, segment, freed_start, freed_stop)


def note_free(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    """Note `start..stop` for the reclaimer, which looks again whether it is unused."""
    unmarked = txn.unmarked_frees.setdefault(segment, set())
    # Rows stay disjoint: a row behind an overlapping one would hide it from the reclaimer.
    for old_start, old_stop in _freed(txn, segment, start, stop):
        txn.delete("frees", pair_key(segment, old_start))
        txn.counters.pending_free_bytes -= old_stop - old_start
        if old_start < start:
            _put_free(txn, segment, old_start, start)
        if old_stop > stop:
            _put_free(txn, segment, stop, old_stop)
            unmarked.add(stop)  # the old row's checkpoint may be still under way
    _put_free(txn, segment, start, stop)
    unmarked.add(start)


def _freed(txn: Txn, segment: SegmentId, start: int, stop: int) -> list[tuple[int, int]]:
    """Return the rows of `frees` with bytes in `start..stop`."""
    found = [txn.floor("frees", pair_key(segment, start))]
    found += txn.scan("frees", pair_key(segment, start + 1), pair_key(segment, stop))
    ranges: list[tuple[int, int]] = []
    for key, value in filter(None, found):
        owner, at = unpack_pair(key)
        if owner == segment and at + U64.unpack(value)[0] > start:
            ranges.append((at, at + U64.unpack(value)[0]))
    return ranges


def _put_free(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    txn.put("frees", pair_key(segment, start), U64.pack(stop - start))
    txn.counters.pending_free_bytes += stop - start


def _unpack(segment: SegmentId, key: bytes, value: bytes) -> Counted | None:
    owner, start = unpack_pair(key)
    if owner != segment:
        return None
    if len(value) != SHARE.size:
        raise Corrupt(f"share: {len(value)} bytes, want {SHARE.size}")
    length, count = SHARE.unpack(value)
    return Counted(start, start + length, count)


def _total(found: list[Counted]) -> int:
    return sum(row.stop - row.start for row in found)


def _replace(txn: Txn, segment: SegmentId, old: list[Counted], new: list[Counted]) -> None:
    kept = set(new)
    starts = {row.start for row in new}
    before = set(old)
    for row in kept - before:
        txn.put("shares", pair_key(segment, row.start), SHARE.pack(row.stop - row.start, row.users))
    for row in old:
        # Last, so that the table is not empty meanwhile: see _LAST_KEY of store.index.
        if row.start not in starts:
            txn.delete("shares", pair_key(segment, row.start))
