"""Reading every stored chunk against its fingerprint, in segment order, a batch at a time.

`take` and `put` belong to the thread of the index, `Batch.read` may run in a worker. Between them
requests go on, so `put` looks again whether a chunk is still there. Where a pass stands is kept in
the index with what it found, so that it goes on after an interruption.

Bytes come from the disk, not from the page cache, where the file system has O_DIRECT: the cache may
well be right where the disk is not.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from dedupfs.core.chunking import CHUNK_MAX_BYTES, fingerprint
from dedupfs.core.errors import Corrupt, Damaged
from dedupfs.core.format import SCRUB, pair_key, unpack_pair
from dedupfs.core.intervals import IntervalSet, gaps
from dedupfs.core.types import PAGE_BYTES, SegmentId
from dedupfs.store import chunks, damage, shares
from dedupfs.store.chunks import Chunk

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from dedupfs.store.index import Index
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn

BATCH_BYTES: Final = 8 << 20
_RUN_MAX_BYTES: Final = 1 << 20  # read at once
_ITEMS_MAX: Final = 1000  # in a batch: their rows are read and noted between two requests
_META_KEY: Final = b"scrub"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a pass stands, and what it has done since its start. Fields as in format.SCRUB."""

    segment: int
    offset: int
    stop_segment: int  # segments made later are not looked at
    total_bytes: int
    chunks: int = 0
    checked_bytes: int = 0
    unchecked_bytes: int = 0  # without a fingerprint: read, but not compared

    @property
    def done_bytes(self) -> int:
        """How much of `total_bytes` was read."""
        return min(self.checked_bytes + self.unchecked_bytes, self.total_bytes)


class _Item(NamedTuple):
    segment: SegmentId
    offset: int
    length: int
    name: bytes | None  # the fingerprint, if there is one

    @property
    def stop(self) -> int:
        return self.offset + self.length


class Batch:
    """Some ranges to be read, and which of them are not what was written."""

    def __init__(self, segments: Segments, place: tuple[int, int]) -> None:
        self._segments = segments
        self.items: list[_Item] = []
        self.rotten: set[_Item] = set()
        self.next = place  # where the batch after it starts: segment, offset
        self.repairs = segments.repairs

    @property
    def size_bytes(self) -> int:
        """How much is to be read."""
        return sum(item.length for item in self.items)

    def __enter__(self) -> Self:
        """Keep the ranges from being punched."""
        for segment in self._ids():
            self._segments.pin(segment)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let them go."""
        for segment in self._ids():
            self._segments.unpin(segment)

    def _ids(self) -> list[SegmentId]:
        return list(dict.fromkeys(item.segment for item in self.items))

    def read(self) -> None:
        """Read and compare; blocks, and may run in a worker thread inside `with batch`."""
        for segment in self._ids():
            items = [item for item in self.items if item.segment == segment]
            try:
                file = _DiskFile(self._segments.path(segment))
            except FileNotFoundError:
                self.rotten.update(items)
                continue
            with contextlib.closing(file):
                for run in _runs(items):
                    self.rotten.update(_unsound(file, run))


class Scrub:
    """One pass over a store."""

    def __init__(self, index: Index, segments: Segments, *, restart: bool = False) -> None:
        """Go on where an earlier pass was interrupted, unless `restart`."""
        self._index = index
        self._segments = segments
        with index.read() as txn:
            raw = None if restart else txn.get("meta", _META_KEY)
        if raw is None:
            self.progress = Progress(0, 0, index.counters.next_segment, index.counters.live_bytes)
        elif len(raw) == SCRUB.size:
            self.progress = Progress(*SCRUB.unpack(raw))
        else:
            raise Corrupt(f"scrub position: {len(raw)} bytes, want {SCRUB.size}")
        self.was_resumed = raw is not None

    def take(self, budget_bytes: int = BATCH_BYTES) -> Batch | None:
        """Return what is to be read next, about `budget_bytes`; None at the end."""
        batch = Batch(self._segments, (self.progress.segment, self.progress.offset))
        room = budget_bytes
        with self._index.read() as txn:
            while room > 0 and len(batch.items) < _ITEMS_MAX:
                place = _next_used(txn, *batch.next)
                if place is None or place[0] >= self.progress.stop_segment:
                    break
                found, stop = _used_from(txn, place, min(room, _RUN_MAX_BYTES))
                batch.items += found
                room -= sum(item.length for item in found)
                batch.next = place[0], stop
        return batch if batch.items else None

    def put(self, batch: Batch) -> None:
        """Note what was found. Raises NoSpace.

        What was healed meanwhile may have been read half old, half new: then the batch is taken
        once more.
        """
        if batch.rotten and batch.repairs != self._segments.repairs:
            return
        segment, offset = batch.next
        progress = replace(self.progress, segment=segment, offset=offset)
        with self._index.write() as txn:
            for item in batch.items:
                progress = self._put_item(txn, item, progress, is_rotten=item in batch.rotten)
            txn.put("meta", _META_KEY, SCRUB.pack(*astuple(progress)))
        self.progress = progress

    def _put_item(self, txn: Txn, item: _Item, so_far: Progress, *, is_rotten: bool) -> Progress:
        if item.name is None:
            used = [(row.start, row.stop) for row in shares.rows(txn, *item[:2], item.stop)]
            for start, stop in used if is_rotten else []:
                damage.mark(txn, item.segment, max(start, item.offset), min(stop, item.stop))
            return replace(so_far, unchecked_bytes=so_far.unchecked_bytes + item.length)
        if chunks.find(txn, item.name) != Chunk(*item[:3]):
            return so_far  # freed meanwhile
        note = damage.mark if is_rotten else damage.clear
        note(txn, item.segment, item.offset, item.stop)
        return replace(
            so_far, chunks=so_far.chunks + 1, checked_bytes=so_far.checked_bytes + item.length
        )

    def finish(self) -> None:
        """Forget the position: the next pass starts anew. Raises NoSpace."""
        with self._index.write() as txn:
            txn.delete("meta", _META_KEY)


def _next_used(txn: Txn, segment: int, offset: int) -> tuple[SegmentId, int] | None:
    """Return the first place from `segment`, `offset` on that a file uses."""
    for row in shares.rows(txn, SegmentId(segment), offset, offset + 1):
        if row.start <= offset < row.stop:
            return SegmentId(segment), offset
    found = next(txn.scan("shares", pair_key(segment, offset)), None)
    if found is None:
        return None
    at = unpack_pair(found[0])
    return SegmentId(at[0]), at[1]


def _used_from(txn: Txn, place: tuple[SegmentId, int], room: int) -> tuple[list[_Item], int]:
    """Return what is used of about `room` bytes from `place`, and where that ends."""
    segment, start = place
    stop = start + room
    found: list[_Item] = []
    for chunk, name in chunks.overlapping(txn, segment, start, stop):
        if chunk.offset >= start:  # else it was part of the batch before
            found.append(_Item(segment, chunk.offset, chunk.length, name))
            stop = max(stop, chunk.offset + chunk.length)
    used = IntervalSet((row.start, row.stop) for row in shares.rows(txn, segment, start, stop))
    named = [(item.offset, item.stop) for item in found]
    for used_start, used_stop in used:
        for low, high in gaps(named, max(used_start, start), min(used_stop, stop)):
            found += [
                _Item(segment, at, min(CHUNK_MAX_BYTES, high - at), None)
                for at in range(low, high, CHUNK_MAX_BYTES)
            ]
    return sorted(found, key=lambda item: item.offset), stop


def _runs(items: list[_Item]) -> list[list[_Item]]:
    """Return neighbours that are read at once."""
    runs: list[list[_Item]] = []
    for item in items:
        last = runs[-1] if runs else []
        if last and last[-1].stop == item.offset and item.stop - last[0].offset <= _RUN_MAX_BYTES:
            last.append(item)
        else:
            runs.append([item])
    return runs


def _unsound(file: _DiskFile, run: list[_Item]) -> list[_Item]:
    """Return those of a run that cannot be read or have another fingerprint."""
    start = run[0].offset
    try:
        view = file.read(start, run[-1].stop)
    except (OSError, Damaged):
        # One bad sector must not take its neighbours along.
        return [bad for item in run for bad in _unsound(file, [item])] if len(run) > 1 else run
    return [
        item
        for item in run
        if item.name is not None
        and fingerprint(view[item.offset - start : item.stop - start]) != item.name
    ]


class _DiskFile:
    """A segment file read past the page cache where that is possible."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._direct = True
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._direct = False
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        # O_DIRECT wants aligned memory, and a map starts at a page.
        self._buffer = memoryview(mmap.mmap(-1, _RUN_MAX_BYTES + 2 * PAGE_BYTES))

    def read(self, start: int, stop: int) -> memoryview:
        """Return the bytes `start..stop`, good until the next call. Raises OSError, Damaged."""
        low = start - start % PAGE_BYTES
        high = stop + -stop % PAGE_BYTES
        try:
            self._fill(low, high - low, stop - low)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            os.close(self._fd)
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            self._direct = False
            self._fill(low, high - low, stop - low)
        return self._buffer[start - low : stop - low]

    def _fill(self, low: int, size: int, wanted: int) -> None:
        if not self._direct:
            os.posix_fadvise(self._fd, low, size, os.POSIX_FADV_DONTNEED)
        done = 0
        while done < wanted:
            count = os.preadv(self._fd, [self._buffer[done:size]], low + done)
            if not count:
                raise Damaged(f"{self._path.name} ends at {low + done}")
            done += count

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
