"""Segment files against their rows, and which bytes that files need are gone."""

from __future__ import annotations

import errno
import os
import re
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dedupfs.core.format import SEGMENT, U64, pair_key, unpack_pair
from dedupfs.core.intervals import IntervalSet, gaps
from dedupfs.core.types import FILE_MAX_BYTES, SegmentId
from dedupfs.store import damage, shares
from dedupfs.store.fsck.findings import Problem
from dedupfs.store.fsck.rows import SEGMENT_COLUMNS, columns, deletion, sound
from dedupfs.store.fsck.space import batches
from dedupfs.store.segments import OPEN, SEALED, SegmentRow, get_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from dedupfs.store.fsck.findings import Progress
    from dedupfs.store.fsck.space import Use
    from dedupfs.store.txn import Txn

_BLOCK_BYTES: Final = 512
# File systems count blocks of their own, and give preallocated ones back, after the row was written.
_ALLOCATED_SLACK_BYTES: Final = (1 << 20) + (64 << 10)
_MISSING: Final = -1
_NAME: Final = re.compile(r"[0-9a-f]{16}")


class Media(NamedTuple):
    """Segment rows, by id, with what the disk says: `on_disk` is -1 where there is no file."""

    segment: NDArray[np.int64]
    state: NDArray[np.int64]
    size: NDArray[np.int64]
    allocated: NDArray[np.int64]
    on_disk: NDArray[np.int64]
    blocks: NDArray[np.int64]  # bytes

    def row_of(self, segment: int) -> int:
        """Return the row of a segment, or -1."""
        at = int(np.searchsorted(self.segment, segment))
        return at if at < len(self.segment) and self.segment[at] == segment else -1


def files(folder: Path) -> dict[int, os.stat_result]:
    """Return the segment files there are."""
    with os.scandir(folder) as entries:
        return {
            int(entry.name, 16): entry.stat(follow_symlinks=False)
            for entry in entries
            if _NAME.fullmatch(entry.name)
        }


def load(txn: Txn, found: dict[int, os.stat_result]) -> Media:
    """Return the columns of `segments` beside what is on disk."""
    parts = [
        batch.astype(batch.dtype.newbyteorder("="))
        for batch in columns(txn, "segments", SEGMENT_COLUMNS)
    ]
    table = np.concatenate(parts) if parts else np.zeros(0, SEGMENT_COLUMNS.newbyteorder("="))
    table = table[table["segment"] < 1 << 62]
    stats = [found.get(int(segment)) for segment in table["segment"]]
    return Media(
        segment=table["segment"].astype(np.int64),
        state=table["state"].astype(np.int64),
        size=np.minimum(table["size"], 1 << 62).astype(np.int64),
        allocated=np.minimum(table["allocated"], 1 << 62).astype(np.int64),
        on_disk=np.array([stat.st_size if stat else _MISSING for stat in stats], np.int64),
        blocks=np.array([stat.st_blocks * _BLOCK_BYTES if stat else 0 for stat in stats], np.int64),
    )


def check_rows(media: Media, *, was_clean: bool) -> list[Problem]:
    """Check segment rows by themselves and against their files."""
    found = []
    for row in np.flatnonzero((media.state != OPEN) & (media.state != SEALED)):
        detail = f"segment {media.segment[row]:x} has state {media.state[row]}"
        found.append(_wrong_row(media, int(row), detail, state=SEALED))
    # The rows of what a killed process wrote are mended by the next start.
    if was_clean:
        drift = np.abs(media.allocated - media.blocks) > _ALLOCATED_SLACK_BYTES
        for row in np.flatnonzero(drift):
            detail = (
                f"segment {media.segment[row]:x} takes {media.blocks[row]} bytes on disk, "
                f"its row says {media.allocated[row]}"
            )
            found.append(_wrong_row(media, int(row), detail, allocated=int(media.blocks[row])))
    return found


def _wrong_row(media: Media, row: int, detail: str, **change: int) -> Problem:
    segment = SegmentId(int(media.segment[row]))

    def fix(txn: Txn) -> None:
        old = get_row(txn, segment)
        if old is not None:
            put_row(txn, segment, old._replace(**change))

    return Problem("segment", detail, segment=segment, fix=fix)


def put_row(txn: Txn, segment: SegmentId, row: SegmentRow) -> None:
    """Set a segment's row; totals are counted anew later."""
    txn.put("segments", U64.pack(segment), SEGMENT.pack(*row))


def check_use(media: Media, use: Use, found: dict[int, os.stat_result]) -> list[Problem]:
    """Check that segments in `use` have a row that covers what is used."""
    problems = []
    ends = np.flatnonzero(np.append(use.segment[1:] != use.segment[:-1], len(use.segment) > 0))
    for segment, stop in zip(use.segment[ends].tolist(), use.stop[ends].tolist(), strict=True):
        row = media.row_of(segment)
        if row >= 0 and media.size[row] >= stop:
            continue
        stat = found.get(segment)
        size = max(stop, stat.st_size) if stat else stop
        allocated = stat.st_blocks * _BLOCK_BYTES if stat else 0
        detail = f"segment {segment:x} is in use up to {stop}, " + (
            f"its row says {media.size[row]}" if row >= 0 else "and has no row"
        )
        state = int(media.state[row]) if row >= 0 else SEALED
        fix = partial(put_row, segment=SegmentId(segment), row=SegmentRow(state, size, allocated))
        problems.append(Problem("segment", detail, segment=segment, fix=fix))
    return problems


def check_unused(txn: Txn, media: Media, used: NDArray[np.int64]) -> list[Problem]:
    """Find sealed segments that nobody uses and nobody frees, and rows without a file."""
    problems = []
    for row in np.flatnonzero(~np.isin(media.segment, used) & (media.state == SEALED)):
        segment = SegmentId(int(media.segment[row]))
        if media.on_disk[row] == _MISSING:
            detail = f"segment {segment:x} has no file, and nobody uses it"
            fix = deletion("segments", U64.pack(segment))
            problems.append(Problem("segment", detail, segment=segment, fix=fix))
            continue
        waiting = txn.scan("frees", pair_key(segment, 0), pair_key(segment + 1, 0))
        if next(iter(waiting), None) is None:
            detail = f"segment {segment:x} is used by nobody and not freed"
            free = partial(
                shares.note_free, segment=segment, start=0, stop=max(1, int(media.size[row]))
            )
            problems.append(Problem("segment", detail, segment=segment, fix=free))
    return problems


class Gone:
    """Ranges of segments whose bytes are not what was written, by segment."""

    def __init__(self) -> None:
        self._ranges: dict[int, IntervalSet] = {}

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def add(self, segment: int, start: int, stop: int) -> None:
        """Note `start..stop` as gone."""
        self._ranges.setdefault(segment, IntervalSet()).add(start, stop)

    def lost_bytes(self, segment: int, start: int, stop: int) -> int:
        """Return how many bytes of `start..stop` are gone."""
        ranges = self._ranges.get(segment, ())
        return sum(max(0, min(last, stop) - max(first, start)) for first, last in ranges)

    def ranges(self, segment: int) -> list[tuple[int, int]]:
        """Return what is gone of a segment."""
        return list(self._ranges.get(segment, ()))

    def files(self, txn: Txn) -> dict[int, int]:
        """Return, by inode, how many of its bytes are gone."""
        out: dict[int, int] = {}
        segments = np.array(sorted(self._ranges), np.int64)
        for batch in batches(txn):
            for row in np.flatnonzero(np.isin(batch.segment, segments)):
                at, length = int(batch.at[row]), int(batch.length[row])
                lost = self.lost_bytes(int(batch.segment[row]), at, at + length)
                if lost:
                    ino = int(batch.ino[row])
                    out[ino] = out.get(ino, 0) + lost
        return out


def known_gone(txn: Txn) -> Gone:
    """Return what the table `damaged` says."""
    gone = Gone()
    for key, value in sound(txn, "damaged"):
        segment, start = unpack_pair(key)
        gone.add(segment, start, min(start + U64.unpack(value)[0], FILE_MAX_BYTES))
    return gone


def check_gone(
    folder: Path, media: Media, use: Use, gone: Gone, progress: Progress
) -> list[Problem]:
    """Add used bytes that no file holds to `gone`; return those reads would not notice."""
    problems = []
    edges = np.flatnonzero(np.append(True, use.segment[1:] != use.segment[:-1]))
    edges = np.append(edges[: len(use.segment)], len(use.segment))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        segment = int(use.segment[first])
        row = media.row_of(segment)
        size = int(media.on_disk[row]) if row >= 0 else _size_of(folder, segment)
        stop = int(use.stop[last - 1])
        if size < stop:
            gone.add(segment, max(size, 0), stop)
        if row >= 0 and 0 <= media.blocks[row] < size:
            used = zip(use.start[first:last].tolist(), use.stop[first:last].tolist(), strict=True)
            problems += _check_holes(folder, segment, min(size, stop), list(used), gone)
        if first % 4096 == 0:
            progress("segments", first, len(use.segment))
    return problems


def _size_of(folder: Path, segment: int) -> int:
    try:
        return (folder / f"{segment:016x}").stat().st_size
    except FileNotFoundError:
        return _MISSING


def _check_holes(
    folder: Path, segment: int, size: int, used: list[tuple[int, int]], gone: Gone
) -> list[Problem]:
    """Find used ranges that were punched: they would read as zeros, and zeros are never stored."""
    problems = []
    known = gone.ranges(segment)
    merged = list(IntervalSet(used))
    holes = gaps(data_ranges(folder / f"{segment:016x}", size), 0, size)
    for start, stop in _common(merged, holes):
        for low, high in gaps(known, start, stop):
            gone.add(segment, low, high)
            detail = f"segment {segment:x} has a hole where files use {low}..{high}"
            fix = partial(damage.mark, segment=SegmentId(segment), start=low, stop=high)
            problems.append(Problem("hole", detail, segment=segment, fix=fix))
    return problems


def _common(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what two sorted lists of ranges have in common."""
    at = 0
    for start, stop in left:
        while at < len(right) and right[at][1] <= start:
            at += 1
        look = at
        while look < len(right) and right[look][0] < stop:
            yield max(start, right[look][0]), min(stop, right[look][1])
            look += 1


def data_ranges(path: Path, size: int) -> list[tuple[int, int]]:
    """Return the ranges of a file before `size` that are no holes."""
    found: list[tuple[int, int]] = []
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = 0
        while at < size:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
            if start < size:
                found.append((start, min(at, size)))
    except OSError as error:
        if error.errno != errno.ENXIO:  # no data behind `at`
            raise
    finally:
        os.close(fd)
    return found
