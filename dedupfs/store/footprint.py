"""What a unit holds: a walk over its names and their extents, in steps."""

from __future__ import annotations

import itertools
import stat
from typing import TYPE_CHECKING, Final

from dedupfs.core.eviction import Footprint
from dedupfs.core.format import pair_key, unpack_extent
from dedupfs.core.types import Ino, SegmentId
from dedupfs.store import namespace, shares

if TYPE_CHECKING:
    from collections.abc import Generator

    from dedupfs.core.eviction import Shares
    from dedupfs.core.intervals import Counted
    from dedupfs.store.index import Index

_ROWS: Final = 1000
_ENTRIES: Final = 250  # about 2 ms; then others may


def measure(index: Index, unit: Ino, names: int = 1) -> Generator[None, None, Footprint]:
    """Return what the names of `unit` lead to; yields between two steps, when others may change it.

    `names`: how many of a file's names are the unit.
    """
    found = Footprint({})
    with index.read() as txn:
        inode = namespace.find_inode(txn, unit)
    if inode is None:
        return found
    if not stat.S_ISDIR(inode.mode):
        found.entries = names
        yield from _add(index, found, unit, names)
        return found
    left = [unit]
    while left:
        parent, start = left.pop(), 0
        while start >= 0:
            with index.read() as txn:
                entries = namespace.entries(txn, parent, start=start, stop=(1 << 64) - 1)
                batch = list(itertools.islice(entries, _ROWS))
            for entry in batch:
                yield from _add_entry(index, found, entry.ino, left)
            start = batch[-1].cookie + 1 if len(batch) == _ROWS else -1
    return found


def _add_entry(
    index: Index, found: Footprint, ino: Ino, left: list[Ino]
) -> Generator[None, None, None]:
    """Add a file, or a directory to those that are `left` to walk."""
    found.entries += 1
    with index.read() as txn:
        inode = namespace.find_inode(txn, ino)
    if inode is not None and stat.S_ISDIR(inode.mode):
        left.append(ino)
    elif inode is not None:
        yield from _add(index, found, ino)
    if found.entries % _ENTRIES == 0:
        yield


def _add(index: Index, found: Footprint, ino: Ino, names: int = 1) -> Generator[None, None, None]:
    known = found.files.get(ino)
    if known is not None:
        found.files[ino] = (known[0] + 1, known[1], known[2])
        return
    with index.read() as txn:
        inode = namespace.find_inode(txn, ino)
    if inode is None:
        return
    ranges: list[tuple[int, int, int]] = []
    start = pair_key(ino, 0)
    while inode.mapped_bytes or stat.S_ISREG(inode.mode):
        with index.read() as txn:
            rows = list(itertools.islice(txn.scan("extents", start, pair_key(ino + 1, 0)), _ROWS))
        for key, value in rows:
            extent = unpack_extent(key, value)
            first = extent.segment_offset
            ranges.append((extent.segment, first, first + extent.length))
        if len(rows) < _ROWS:
            break
        start = rows[-1][0] + b"\0"
        yield
    found.files[ino] = (names, max(1, inode.nlink), ranges)


def shares_of(index: Index) -> Shares:
    """Return the look at share counts that `core.eviction.Considered` wants."""

    def look(segment: int, start: int, stop: int) -> list[Counted]:
        with index.read() as txn:
            return shares.rows(txn, SegmentId(segment), start, stop)

    return look
