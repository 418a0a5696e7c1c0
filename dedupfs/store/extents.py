"""Which segment bytes make up a file: the extent map of an inode, and the share counts with it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from dedupfs.core.format import EXTENT, Extent, pair_key, unpack_extent, unpack_pair
from dedupfs.core.types import FILE_MAX_BYTES, Ino
from dedupfs.store import shares

if TYPE_CHECKING:
    from dedupfs.store.txn import Txn


def overlapping(txn: Txn, ino: Ino, start: int, stop: int) -> list[Extent]:
    """Return the extents of `ino` that have bytes in `start..stop`, whole, in order."""
    found: list[Extent] = []
    before = txn.floor("extents", pair_key(ino, start))
    if before is not None and unpack_pair(before[0])[0] == ino:
        extent = unpack_extent(*before)
        if extent.stop > start:
            found.append(extent)
    for key, value in txn.scan("extents", pair_key(ino, start + 1), pair_key(ino, stop)):
        found.append(unpack_extent(key, value))
    return found


def clear(txn: Txn, ino: Ino, start: int, stop: int = FILE_MAX_BYTES) -> int:
    """Make `start..stop` a hole; return the change of mapped bytes (<= 0)."""
    delta = 0
    for old in overlapping(txn, ino, start, stop):
        cut_start, cut_stop = max(old.offset, start), min(old.stop, stop)
        if cut_start == old.offset:
            txn.delete("extents", pair_key(ino, old.offset))
        else:
            _put(txn, ino, Extent(old.offset, old.segment, old.segment_offset, start - old.offset))
        if cut_stop < old.stop:
            _put(txn, ino, Extent(stop, old.segment, stop + old.shift, old.stop - stop))
        shares.drop(txn, old.segment, cut_start + old.shift, cut_stop + old.shift)
        delta -= cut_stop - cut_start
    txn.counters.logical_bytes += delta
    return delta


def clear_some(txn: Txn, ino: Ino, limit: int) -> int:
    """Remove up to `limit` extents; return the change of mapped bytes, 0 when there were none."""
    rows = list(
        itertools.islice(txn.scan("extents", pair_key(ino, 0), pair_key(ino + 1, 0)), limit)
    )
    return clear(txn, ino, 0, unpack_extent(*rows[-1]).stop) if rows else 0


def has_more_than(txn: Txn, ino: Ino, limit: int) -> bool:
    """Tell whether the file has more than `limit` extents."""
    rows = txn.scan("extents", pair_key(ino, 0), pair_key(ino + 1, 0))
    return next(itertools.islice(rows, limit, None), None) is not None


def map_range(txn: Txn, ino: Ino, extent: Extent) -> int:
    """Let `extent` replace what the file had there; return the change of mapped bytes."""
    # The new user is counted first: bytes mapped onto themselves must not be freed meanwhile.
    shares.add(txn, extent.segment, extent.segment_offset, extent.segment_offset + extent.length)
    delta = clear(txn, ino, extent.offset, extent.stop) + extent.length
    txn.counters.logical_bytes += extent.length
    start, stop = extent.offset, extent.stop
    before = txn.floor("extents", pair_key(ino, start))
    if before is not None and unpack_pair(before[0])[0] == ino:
        left = unpack_extent(*before)
        if left.stop == start and left.segment == extent.segment and left.shift == extent.shift:
            start = left.offset
    key = pair_key(ino, stop)
    raw = txn.get("extents", key)
    if raw is not None:
        right = unpack_extent(key, raw)
        if right.segment == extent.segment and right.shift == extent.shift:
            txn.delete("extents", key)
            stop = right.stop
    _put(txn, ino, Extent(start, extent.segment, start + extent.shift, stop - start))
    return delta


def _put(txn: Txn, ino: Ino, extent: Extent) -> None:
    txn.put(
        "extents",
        pair_key(ino, extent.offset),
        EXTENT.pack(extent.segment, extent.segment_offset, extent.length),
    )
