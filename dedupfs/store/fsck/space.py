"""Extents against inodes, and share counts against extents, counted anew.

Extents are the truth. Segments are taken in groups, so that memory is bounded whatever their number.
"""

from __future__ import annotations

import stat
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dedupfs.core.format import EXTENT, PAIR, SHARE, Extent, pair_key, unpack_extent
from dedupfs.core.intervals import gaps
from dedupfs.core.types import FILE_MAX_BYTES, Ino, SegmentId
from dedupfs.store import namespace, shares
from dedupfs.store.fsck.findings import Problem
from dedupfs.store.fsck.names import blank, setting
from dedupfs.store.fsck.rows import EXTENT_COLUMNS, SHARE_COLUMNS, columns, deletion
from dedupfs.store.segments import get_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dedupfs.store.fsck.findings import Progress
    from dedupfs.store.fsck.names import Inodes
    from dedupfs.store.txn import Txn

_GROUP_ROWS: Final = 4_000_000  # extents counted at once, 100 bytes each


class Use(NamedTuple):
    """Ranges of segments and how many extents use each; sorted, disjoint, as long as can be."""

    segment: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    users: NDArray[np.int64]


class Extents(NamedTuple):
    """Columns of extents whose numbers make sense."""

    ino: NDArray[np.int64]
    offset: NDArray[np.int64]
    segment: NDArray[np.int64]
    at: NDArray[np.int64]
    length: NDArray[np.int64]


def batches(txn: Txn, found: list[Problem] | None = None) -> Iterator[Extents]:
    """Yield all extents in order; note those that make no sense in `found`, and leave them out."""
    for batch in columns(txn, "extents", EXTENT_COLUMNS):
        is_sane = (batch["length"] > 0) & (batch["ino"] < 1 << 60) & (batch["segment"] < 1 << 60)
        for name in ("offset", "at", "length"):
            is_sane &= batch[name] <= FILE_MAX_BYTES
        is_sane &= batch["offset"] + batch["length"] <= FILE_MAX_BYTES
        is_sane &= batch["at"] + batch["length"] <= FILE_MAX_BYTES
        if found is not None:
            found += [_senseless(row) for row in batch[~is_sane]]
        yield Extents(*(batch[name][is_sane].astype(np.int64) for name in Extents._fields))


def _senseless(row: np.void) -> Problem:
    ino, offset, segment, at, length = (int(field) for field in row.item())
    detail = f"extent of inode {ino}: {length} bytes at {offset} from {at} of segment {segment:x}"
    fix = deletion("extents", pair_key(ino, offset))
    return Problem("extent", detail, ino=ino, fix=fix, is_lost=True)


def check_files(txn: Txn, inodes: Inodes, progress: Progress) -> list[Problem]:
    """Check extents against one another and against their inodes."""
    found: list[Problem] = []
    mapped = np.zeros(len(inodes.ino), np.int64)
    stops = np.zeros(len(inodes.ino), np.int64)
    unknown: set[int] = set()
    last_ino, last_stop, done, total = -1, 0, 0, txn.rows("extents")
    for batch in batches(txn, found):
        if not len(batch.ino):
            continue
        stop = batch.offset + batch.length
        before_ino = np.concatenate([[last_ino], batch.ino[:-1]])
        before_stop = np.concatenate([[last_stop], stop[:-1]])
        overlaps = (before_ino == batch.ino) & (before_stop > batch.offset)
        found += [
            _overlap(int(batch.ino[row]), int(batch.offset[row]))
            for row in np.flatnonzero(overlaps)
        ]
        last_ino, last_stop = int(batch.ino[-1]), int(stop[-1])
        rows = inodes.rows_of(batch.ino.astype(np.uint64))
        unknown.update(np.unique(batch.ino[rows < 0]).tolist())
        known = rows >= 0
        np.add.at(mapped, rows[known], batch.length[known])
        np.maximum.at(stops, rows[known], stop[known])
        done += len(batch.ino)
        progress("extents", done, total)
    found += [_without_inode(txn, Ino(ino)) for ino in sorted(unknown)]
    found += _check_sizes(txn, inodes, mapped, stops)
    return found


def _overlap(ino: int, offset: int) -> Problem:
    def fix(txn: Txn) -> None:
        raw = txn.get("extents", pair_key(ino, offset))
        before = txn.floor("extents", pair_key(ino, offset - 1))
        if raw is None or before is None:
            return
        later, earlier = unpack_extent(pair_key(ino, offset), raw), unpack_extent(*before)
        txn.delete("extents", pair_key(ino, offset))
        if later.stop > earlier.stop and txn.get("extents", pair_key(ino, earlier.stop)) is None:
            put_extent(
                txn, Ino(ino), Extent(earlier.stop, later.segment, earlier.stop + later.shift,
                later.stop - earlier.stop),
            )  # fmt: skip

    detail = f"inode {ino}: two extents have bytes at {offset}"
    return Problem("extent", detail, ino=ino, fix=fix, is_lost=True)


def put_extent(txn: Txn, ino: Ino, extent: Extent) -> None:
    """Store an extent, without counting its share."""
    value = EXTENT.pack(extent.segment, extent.segment_offset, extent.length)
    txn.put("extents", pair_key(ino, extent.offset), value)


def _without_inode(txn: Txn, ino: Ino) -> Problem:
    last = txn.floor("extents", pair_key(ino + 1, 0))
    assert last is not None, "it has extents"
    size = min(unpack_extent(*last).stop, FILE_MAX_BYTES)
    inode = blank(stat.S_IFREG | 0o600, size=size)
    return Problem(
        "extent", f"inode {ino} has content and does not exist", ino=ino, is_lost=True,
        fix=lambda txn: namespace.put_inode(txn, ino, inode),
    )  # fmt: skip


def _unmap(txn: Txn, *, ino: Ino) -> None:
    for key, _value in list(txn.scan("extents", pair_key(ino, 0), pair_key(ino + 1, 0))):
        txn.delete("extents", key)


def _check_sizes(
    txn: Txn, inodes: Inodes, mapped: NDArray[np.int64], stops: NDArray[np.int64]
) -> list[Problem]:
    found = []
    for row in np.flatnonzero((mapped > 0) & ~inodes.is_file):
        ino = Ino(int(inodes.ino[row]))
        # With entries it is a directory: its extents go.
        has_entries = not namespace.is_empty(txn, ino)
        fix = (
            partial(_unmap, ino=ino) if has_entries else setting(ino, "mode", stat.S_IFREG | 0o600)
        )
        found.append(
            Problem(
                "inode", f"inode {ino} has content and is no file", ino=ino, fix=fix, is_lost=True
            )
        )
    for row in np.flatnonzero(inodes.mapped.astype(np.int64) != mapped):
        ino = Ino(int(inodes.ino[row]))
        detail = f"inode {ino} says {inodes.mapped[row]} bytes are mapped, and {mapped[row]} are"
        fix = setting(ino, "mapped_bytes", int(mapped[row]))
        found.append(Problem("mapped-bytes", detail, ino=ino, fix=fix))
    sizes = np.minimum(inodes.size, np.uint64(FILE_MAX_BYTES)).astype(np.int64)
    for row in np.flatnonzero((stops > sizes) & inodes.is_file):
        ino = Ino(int(inodes.ino[row]))
        detail = f"inode {ino} has content up to {stops[row]}, behind its end at {sizes[row]}"
        fix = setting(ino, "size", int(stops[row]))
        found.append(Problem("size", detail, ino=ino, fix=fix, is_lost=True))
    return found


def groups(txn: Txn, progress: Progress) -> Iterator[tuple[int, int, Use]]:
    """Yield `(group, groups, use)`: who uses what of the segments with `id % groups == group`."""
    count = txn.rows("extents") // _GROUP_ROWS + 1
    for group in range(count):
        parts: list[tuple[NDArray[np.int64], ...]] = []
        for batch in batches(txn):
            mine = batch.segment % count == group
            parts.append((batch.segment[mine], batch.at[mine], (batch.at + batch.length)[mine]))
        progress("shares", group, count)
        empty = np.zeros(0, np.int64)
        joined = [np.concatenate(list(part)) for part in zip(*parts, strict=True)] or [empty] * 3
        yield group, count, tally(*joined)


def tally(segment: NDArray[np.int64], start: NDArray[np.int64], stop: NDArray[np.int64]) -> Use:
    """Count how many of the given ranges cover which bytes."""
    segments = np.concatenate([segment, segment])
    places = np.concatenate([start, stop])
    changes = np.repeat(np.array([1, -1]), len(segment))
    order = np.lexsort((places, segments))
    segments, places, changes = segments[order], places[order], changes[order]
    is_last = np.ones(len(segments), bool)  # of the changes at one place
    is_last[:-1] = (segments[1:] != segments[:-1]) | (places[1:] != places[:-1])
    users = np.cumsum(changes)[is_last]
    segments, places = segments[is_last], places[is_last]
    changed = np.ones(len(users), bool)
    changed[1:] = (users[1:] != users[:-1]) | (segments[1:] != segments[:-1])
    segments, places, users = segments[changed], places[changed], users[changed]
    starts = np.flatnonzero(users > 0)  # a range is closed by the next change
    return Use(segments[starts], places[starts], places[starts + 1], users[starts])


def stored_shares(txn: Txn, group: int, count: int) -> Use:
    """Return the share counts the index holds for a group of segments."""
    parts = []
    for batch in columns(txn, "shares", SHARE_COLUMNS):
        mine = batch[batch["segment"] % count == group]
        start = mine["start"].astype(np.int64)
        length = np.minimum(mine["length"], 1 << 62).astype(np.int64)
        parts.append(
            (
                mine["segment"].astype(np.int64),
                start,
                start + length,
                mine["users"].astype(np.int64),
            )
        )
    if not parts:
        return Use(*[np.zeros(0, np.int64)] * 4)
    return Use(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def check_shares(txn: Txn, group: int, count: int, use: Use) -> list[Problem]:
    """Compare the stored share counts of a group with `use`, counted anew."""
    stored = stored_shares(txn, group, count)
    if all(np.array_equal(left, right) for left, right in zip(use, stored, strict=True)):
        return []
    want, have = (
        np.stack(part, 1) if len(part.start) else np.zeros((0, 4), np.int64)
        for part in (use, stored)
    )
    both = np.concatenate([want, have])
    rows, times = np.unique(both, axis=0, return_counts=True)
    found = []
    for segment in np.unique(rows[times == 1][:, 0]):
        mine = use.segment == segment
        ranges = list(
            zip(
                use.start[mine].tolist(), use.stop[mine].tolist(), use.users[mine].tolist(),
                strict=True,
            )
        )  # fmt: skip
        number = SegmentId(int(segment))
        fix = partial(put_shares, segment=number, ranges=ranges)
        detail = f"share counts of segment {number:x} are not those of the extents"
        found.append(Problem("shares", detail, segment=number, fix=fix))
    return found


def put_shares(txn: Txn, *, segment: SegmentId, ranges: list[tuple[int, int, int]]) -> None:
    """Replace the share counts of a segment; what nobody uses is to be freed."""
    first, last = pair_key(segment, 0), pair_key(segment + 1, 0)
    for key, _value in list(txn.scan("shares", first, last)):
        txn.delete("shares", key)
    for start, stop, users in ranges:
        txn.put("shares", pair_key(segment, start), SHARE.pack(stop - start, users))
    row = get_row(txn, segment)
    if row is not None:
        used = [(start, stop) for start, stop, _users in ranges]
        for start, stop in gaps(used, 0, min(row.size, FILE_MAX_BYTES)):
            shares.note_free(txn, segment, start, stop)


assert len(Extents._fields) == len(EXTENT_COLUMNS.names or ()), "the same columns"
assert PAIR.size + EXTENT.size == EXTENT_COLUMNS.itemsize, "a row of `extents`"
