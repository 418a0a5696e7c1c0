"""The segments of a store: made, written once, sealed, punched, removed.

A byte of a segment is written at most once, so what an extent points at never changes. `written`
of an open segment says which bytes are; a sealed one takes no more. The only exception is
`repair`, which puts back bytes that rotted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.errors import Corrupt, Damaged, NoSpace
from dedupfs.core.format import SEGMENT, U64
from dedupfs.core.intervals import IntervalSet
from dedupfs.core.types import PAGE_BYTES, SegmentId
from dedupfs.store.journal import NotKept, sync_file, sync_folder
from dedupfs.store.preallocation import HINT_BYTES
from dedupfs.store.segment_file import (
    BLOCK_BYTES,
    BLOCK_MAX_BYTES,
    FULL,
    Segment,
    allocated_bytes,
    check_alone,
    punch_hole,
    write_all,
)
from dedupfs.store.writeback import WriteBack

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.store.txn import Txn

OPEN: Final = 0
SEALED: Final = 1
_SPARE_FDS: Final = 128  # for everything that is not a cached segment
_CACHED_FDS_MAX: Final = 4096
_MAP_BLOCKS_BYTES: Final = 8 << 10
_MAP_SHARE: Final = 128  # 12 bytes of map for a piece of 4 KiB, and some more


class SegmentRow(NamedTuple):
    """What the index knows of a segment."""

    state: int
    size: int
    allocated: int


@dataclass(slots=True)
class Unsynced:
    """Segments whose bytes or file names may not be durable."""

    folder: Path
    segments: dict[SegmentId, Segment]
    has_new_names: bool = False

    def sync(self) -> None:
        """Make them durable. May run in a worker thread. Raises OSError."""
        for segment in self.segments.values():
            sync_file(segment.fd)
        if self.has_new_names:
            sync_folder(self.folder)


@dataclass(slots=True)
class Growing:
    """Bytes written to some segments, whose place on the disk is not chosen yet."""

    bytes: int = 0
    count: int = 0  # of segments

    def bound(self, count: int) -> int:
        """Return how much more blocks they may take: ext4 maps 340 pieces with a block."""
        return count * _MAP_BLOCKS_BYTES + self.bytes // _MAP_SHARE


class Segments:
    """All segments of a store."""

    def __init__(self, folder: Path, next_id: int) -> None:
        self.folder = folder
        self._next_id = next_id
        self._open: dict[SegmentId, Segment] = {}
        self._sealed: OrderedDict[SegmentId, Segment] = OrderedDict()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.cached_max = min(_CACHED_FDS_MAX, max(16, (limit - _SPARE_FDS) // 2))
        self._pins: dict[SegmentId, int] = {}
        # Read past us once, they may still be mapped; those from before this start, too.
        self._shown: set[SegmentId] = set()
        self._first_of_ours = next_id
        self.is_lost = False  # a sync outside of a checkpoint has failed
        self._unsynced = Unsynced(folder, {})
        self.write_back = WriteBack()
        # Blocks may still grow by the file system's own map when these are written back.
        self._growing = Growing()
        self._being_synced = Growing()
        self.room_bytes: int | None = None  # what `write` may allocate; None: no limit
        self.repairs = 0  # how often stored bytes were changed, for those who read them meanwhile
        folder.mkdir(mode=0o700, exist_ok=True)

    def path(self, segment: SegmentId) -> Path:
        """Return where a segment's file is."""
        return self.folder / f"{segment:016x}"

    def create(self, *, is_home: bool) -> Segment:
        """Make a new, open segment. The index learns of it with the first write."""
        if len(self._unsynced.segments) > self.cached_max:
            self._drop_unsynced()
        segment = SegmentId(self._next_id)
        fd = self._open_fd(segment, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._next_id += 1
        made = Segment(segment, fd, size=0, written=IntervalSet(), is_home=is_home)
        self._open[segment] = made
        self._unsynced.has_new_names = True
        return made

    def get(self, txn: Txn, segment: SegmentId) -> Segment:
        """Return a segment for reading; raise Damaged when it is gone."""
        found = self._open.get(segment) or self._sealed.get(segment)
        if found is not None:
            if found.written is None:
                self._sealed.move_to_end(segment)
            return found
        row = get_row(txn, segment)
        if row is None:
            raise Damaged(f"segment {segment:x} is not in the index")
        try:
            fd = self._open_fd(segment, os.O_RDONLY)
        except FileNotFoundError as error:
            raise Damaged(f"segment {segment:x} has no file") from error
        found = Segment(segment, fd, size=row.size, written=None, is_home=False)
        self._sealed[segment] = found
        if len(self._sealed) > self.cached_max:
            self._sealed.popitem(last=False)
        return found

    def find(self, txn: Txn, segment: SegmentId) -> Segment | None:
        """Return a segment for reading, or None when it is gone."""
        try:
            return self.get(txn, segment)
        except Damaged:
            return None

    def write(self, txn: Txn, segment: Segment, offset: int, data: memoryview) -> None:
        """Write `data`, at bytes never written before, and note the segment in the index.

        Raises NoSpace or QuotaExceeded; the range may then be written again.
        """
        assert segment.written is not None, "a sealed segment is never written"
        assert segment.is_free(offset, offset + len(data)), "a byte is written at most once"
        if self.room_bytes is not None:
            self._take_room(offset, len(data))
        self._unsynced.segments[segment.id] = segment
        self._growing.bytes += len(data)
        try:
            write_all(segment.fd, offset, data)
        except BaseException:
            # A full disk needs back what was written until then.
            with contextlib.suppress(OSError):
                punch_hole(segment.fd, offset, len(data))
            raise
        segment.written.add(offset, offset + len(data))
        txn.counters.next_segment = max(txn.counters.next_segment, segment.id + 1)
        stop = segment.written.stop
        self.put_row(txn, segment.id, SegmentRow(OPEN, stop, allocated_bytes(segment.fd)))
        self.write_back.note(segment, stop)

    def _take_room(self, offset: int, length: int) -> None:
        assert self.room_bytes is not None, "asked for"
        pages = -(-(offset % PAGE_BYTES + length) // PAGE_BYTES)
        self.room_bytes -= pages * PAGE_BYTES + 2 * HINT_BYTES
        if self.room_bytes < 0:
            raise NoSpace("the limit leaves no room")

    @property
    def growth_bytes(self) -> int:
        """What files may take beyond what the index says, until the next checkpoint counts again."""
        count = len(self._unsynced.segments)
        return self._growing.bound(count) + self._being_synced.bound(self._being_synced.count)

    def recount(self, txn: Txn, synced: Unsynced) -> None:
        """Set right what segments take, now that their bytes are on disk."""
        self._being_synced = Growing()
        for segment in synced.segments.values():
            row = get_row(txn, segment.id)
            allocated = allocated_bytes(segment.fd)
            if row is not None and row.allocated != allocated:
                self.put_row(txn, segment.id, row._replace(allocated=allocated))

    @property
    def is_unsynced(self) -> bool:
        """Whether bytes or names of segments are not durable."""
        return bool(self._unsynced.segments) or self._unsynced.has_new_names

    def take_unsynced(self) -> Unsynced:
        """Return what is not durable, for the caller to sync or `give_back`."""
        taken, self._unsynced = self._unsynced, Unsynced(self.folder, {})
        self._growing.count = len(taken.segments)
        self._being_synced, self._growing = self._growing, Growing()
        return taken

    def give_back(self, unsynced: Unsynced) -> None:
        """Note again what could not be synced."""
        self._unsynced.segments |= unsynced.segments
        self._growing.bytes += self._being_synced.bytes
        self._being_synced = Growing()
        self._unsynced.has_new_names |= unsynced.has_new_names

    def size_on_disk(self, segment: SegmentId) -> int:
        """Return how long the segment's file is; 0 when there is none."""
        opened = self._open.get(segment)
        try:
            return (os.fstat(opened.fd) if opened else self.path(segment).stat()).st_size
        except FileNotFoundError:
            return 0

    def repair(self, txn: Txn, segment: SegmentId, offset: int, data: bytes) -> None:
        """Put `data` back where bytes rotted; the next checkpoint makes it durable.

        A file that is gone is made anew. Raises NoSpace, QuotaExceeded, OSError.
        """
        row = get_row(txn, segment)
        if row is None:
            raise Damaged(f"segment {segment:x} is not in the index")
        self.repairs += 1
        opened = self._open.get(segment)
        if opened is None:
            if not self.path(segment).exists():
                self._sealed.pop(segment, None)
                os.close(self._open_fd(segment, os.O_RDWR | os.O_CREAT))
                self._unsynced.has_new_names = True
            opened = self.get(txn, segment)
        fd = self._open_fd(segment, os.O_RDWR) if opened.written is None else os.dup(opened.fd)
        try:
            write_all(fd, offset, memoryview(data))
            self.put_row(txn, segment, row._replace(allocated=allocated_bytes(fd)))
        finally:
            os.close(fd)
        self._unsynced.segments[segment] = opened

    def seal(self, txn: Txn, segment: Segment) -> None:
        """Take no more writes to `segment`."""
        assert segment.written is not None, "sealed once"
        stop = segment.written.stop
        found = os.fstat(segment.fd)
        if found.st_size != stop or found.st_blocks * BLOCK_BYTES >= stop + BLOCK_MAX_BYTES:
            # A write that failed may have made it longer: a reader past the index would see that.
            # XFS keeps speculative preallocation until a truncation.
            os.ftruncate(segment.fd, stop + 1)
            os.ftruncate(segment.fd, stop)
        self.put_row(txn, segment.id, SegmentRow(SEALED, stop, allocated_bytes(segment.fd)))
        del self._open[segment.id]
        segment.set_sealed(stop)

    def punch(self, txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
        """Give the disk space of `start..stop` back; later reads see zeros there.

        Raises BlockingIOError while somebody has the sealed segment mapped, OSError.
        """
        row = get_row(txn, segment)
        if row is None:
            return
        try:
            fd = self._open_fd(segment, os.O_RDWR)
        except FileNotFoundError:
            return  # lost: nothing to give back
        try:
            if segment in self._shown or segment < self._first_of_ours:
                self._sealed.pop(segment, None)
                check_alone(fd)
            if start < stop:
                punch_hole(fd, start, stop - start)
            self.put_row(txn, segment, row._replace(allocated=allocated_bytes(fd)))
        finally:
            os.close(fd)

    def forget(self, txn: Txn, segment: SegmentId) -> Path:
        """Take a sealed segment out of the index; return the file the caller removes."""
        assert segment not in self._open, "an open segment has a writer"
        self._sealed.pop(segment, None)
        self._shown.discard(segment)
        self._unsynced.segments.pop(segment, None)
        row = get_row(txn, segment)
        if row is not None:
            txn.counters.allocated_bytes -= row.allocated
            txn.delete("segments", U64.pack(segment))
        return self.path(segment)

    def put_row(self, txn: Txn, segment: SegmentId, row: SegmentRow) -> None:
        """Set a segment's row and keep the allocated total right."""
        old = get_row(txn, segment)
        txn.counters.allocated_bytes += row.allocated - (old.allocated if old else 0)
        txn.put("segments", U64.pack(segment), SEGMENT.pack(*row))

    def opened(self, segment: SegmentId) -> Segment | None:
        """Return the segment if it still takes writes."""
        return self._open.get(segment)

    def pin(self, segment: SegmentId) -> None:
        """Keep a segment from being punched while a worker thread reads it."""
        self._pins[segment] = self._pins.get(segment, 0) + 1

    def show(self, segment: SegmentId) -> None:
        """Pin a segment that is read past us; it may stay mapped after `unpin`."""
        self._shown.add(segment)
        self.pin(segment)

    def unpin(self, segment: SegmentId) -> None:
        """Undo one `pin`."""
        left = self._pins[segment] - 1
        if left:
            self._pins[segment] = left
        else:
            del self._pins[segment]

    def is_pinned(self, segment: SegmentId) -> bool:
        """Tell whether a worker thread reads the segment."""
        return segment in self._pins

    def discard(self, segment: Segment) -> None:
        """Drop an open segment that the index never learned of."""
        del self._open[segment.id]
        self._unsynced.segments.pop(segment.id, None)
        segment.set_sealed(0)
        self.path(segment.id).unlink(missing_ok=True)

    def unnamed(self) -> int:
        """Return a new file beside the segments that is gone when its descriptor is closed.

        Raises NoSpace, QuotaExceeded, OSError.
        """
        return self._open_path(self.folder, os.O_TMPFILE | os.O_RDWR)

    def _open_fd(self, segment: SegmentId, flags: int) -> int:
        return self._open_path(self.path(segment), flags)

    def _open_path(self, path: Path, flags: int) -> int:
        for relieve in (self._drop_cached, self._drop_unsynced, None):
            try:
                return os.open(path, flags | os.O_CLOEXEC, 0o600)
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE} and relieve is not None:
                    relieve()
                elif error.errno in FULL:
                    raise FULL[error.errno](f"segment: {error.strerror}") from error
                else:
                    raise
        raise AssertionError("the last turn returns or raises")

    def _drop_cached(self) -> None:
        self._sealed.clear()

    def _drop_unsynced(self) -> None:
        """Let go of sealed segments that wait for the next checkpoint with an open descriptor."""
        waiting = self._unsynced.segments
        for segment in [one for one in waiting.values() if one.written is None]:
            try:
                sync_file(segment.fd)
            except NotKept:
                self.is_lost = True
                raise
            del waiting[segment.id]


def get_row(txn: Txn, segment: SegmentId) -> SegmentRow | None:
    """Return what the index knows of a segment."""
    raw = txn.get("segments", U64.pack(segment))
    if raw is None:
        return None
    if len(raw) != SEGMENT.size:
        raise Corrupt(f"segment: {len(raw)} bytes, want {SEGMENT.size}")
    return SegmentRow(*SEGMENT.unpack(raw))
