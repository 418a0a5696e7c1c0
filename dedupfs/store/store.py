"""The store as one object: what the file system layer opens, writes through, reads and closes."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from dedupfs.core.errors import Corrupt, FsError, NotAStore, StoreError, StoreTooNew
from dedupfs.core.format import FORMAT_VERSION, MARKER_PREFIX, STORE_FILES
from dedupfs.core.intervals import tally
from dedupfs.core.types import FILE_MAX_BYTES
from dedupfs.store import (
    backing,
    digest,
    extents,
    freeing,
    instance,
    pages,
    preallocation,
    reading,
    recovery,
    resident,
    rollback,
    shares,
)
from dedupfs.store.backup import Backup, Backups
from dedupfs.store.checkpoint import Checkpoint, Checkpoints
from dedupfs.store.index import Index
from dedupfs.store.journal import sync_folder
from dedupfs.store.lock import StoreLock
from dedupfs.store.reflinks import Reflinks
from dedupfs.store.scrub import Scrub
from dedupfs.store.segments import Segments
from dedupfs.store.shelf import Shelf
from dedupfs.store.verifying import Verifier
from dedupfs.store.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dedupfs.core.types import Ino, SegmentId
    from dedupfs.store.backing import Backing
    from dedupfs.store.reading import ReadPlan
    from dedupfs.store.reflinks import Plan
    from dedupfs.store.txn import Txn
    from dedupfs.store.writeback import WriteBack

log = logging.getLogger(__name__)


# 20 us each: removing a file of a million would stall the mount for most of a minute.
_EXTENTS_AT_ONCE: Final = 500


class Usage(NamedTuple):
    """What a file takes; bytes."""

    logical: int  # mapped: the size without holes
    physical_share: int  # each segment byte divided by its number of users
    exclusive: int  # freed if the file were removed
    extents: int


class Store:
    """An open, locked store."""

    def __init__(
        self,
        path: Path,
        index: Index,
        segments: Segments,
        lock: StoreLock,
        *,
        verify_reads: bool = False,
    ) -> None:
        """Use `Store.open`."""
        self.path = path
        self.index = index
        self._segments = segments
        self._shelf = Shelf(index, segments)
        self._checkpoints = Checkpoints(index, segments)
        self._verifier = Verifier(segments) if verify_reads else None
        self.reflinks = Reflinks(index, segments)
        self._lock = lock
        self._backups = Backups(path, index)
        self._being_removed: dict[Path, int] = {}  # by the first of files removed together: bytes

    @classmethod
    def open(cls, path: Path, *, holder: str = "", verify_reads: bool = False) -> Self:
        """Open the store at `path`, making it if there is none; `holder` is named to others.

        `verify_reads`: bytes that come from the disk are checked against their fingerprints.
        Raises StoreInUse, StoreTooNew, NotAStore, Corrupt, or StoreError when it is not writable.
        """
        try:
            prepare(path)
            lock = StoreLock(path, holder)
        except OSError as error:
            raise StoreError(f"store {path}: {error.strerror}") from error
        try:
            rollback.roll_back(path / STORE_FILES["index"], instance.current(path))
            pages.check_store(path)
            digest.remove(path / STORE_FILES["index"])
            index = Index(path / STORE_FILES["index"])
            try:
                folder = path / STORE_FILES["segments"]
                segments = Segments(folder, index.counters.next_segment)
                preallocation.restrain(folder)
                sync_folder(path)  # the names `index` and `segments`
                recovery.recover(index, segments, folder)
            except BaseException:
                index.close()
                raise
        except OSError as error:
            lock.release()
            raise StoreError(f"store {path}: {error.strerror}") from error
        except struct.error as error:
            lock.release()
            raise Corrupt(
                f"index of {path}: {error}: `dedupfs fsck --repair {path}` mends it"
            ) from error
        except BaseException:
            lock.release()
            raise
        return cls(path, index, segments, lock, verify_reads=verify_reads)

    def writer(
        self,
        ino: Ino,
        on_ingest: Callable[[Txn, int], None],
        later: Callable[[], None] | None = None,
    ) -> Writer:
        """Return a writer for `ino`; there must be one at most for each inode."""
        self.reflinks.forget(ino)
        return Writer(self._shelf, ino, on_ingest, later)

    def truncate(self, txn: Txn, ino: Ino, size: int) -> int:
        """Cut the extents of `ino` behind `size`; return the change of mapped bytes."""
        self.reflinks.forget(ino)
        return extents.clear(txn, ino, size, FILE_MAX_BYTES)

    def drop_some(self, txn: Txn, ino: Ino) -> int:
        """Remove some extents, in about 10 ms; return the change of mapped bytes, 0 at the end."""
        self.reflinks.forget(ino)
        return extents.clear_some(txn, ino, _EXTENTS_AT_ONCE)

    def is_long_to_drop(self, txn: Txn, ino: Ino) -> bool:
        """Tell whether `drop` would hold up others."""
        return extents.has_more_than(txn, ino, _EXTENTS_AT_ONCE)

    def drop(self, txn: Txn, ino: Ino) -> None:
        """Remove all extents of an inode."""
        self.reflinks.forget(ino)
        extents.clear(txn, ino, 0, FILE_MAX_BYTES)

    def read(self, ino: Ino, offset: int, size: int) -> ReadPlan:
        """Return how to read `size` bytes, none of them behind the file's end."""
        with self.index.read() as txn:
            return reading.plan(txn, self._segments, ino, (offset, offset + size), self._verifier)

    def note_read(self, plan: ReadPlan) -> None:
        """Keep what a plan that ran has shown of the stored bytes; those that rotted are damaged.

        Raises NoSpace.
        """
        if plan.check is not None:
            plan.check.settle(self.index)

    def backing(self, ino: Ino, size: int) -> Backing | None:
        """Return a file that equals the mounted one of `size` bytes, to be read past the index.

        Raises Damaged, NoSpace.
        """
        if self._verifier is not None:
            return None
        return backing.find(self.index, self._segments, self.reflinks, ino, size)

    def why_no_backing(self, ino: Ino, size: int) -> str:
        """Return why `backing` would find nothing, "" when it would, or one can be made."""
        if self._verifier is not None:
            return "reads are verified"
        return backing.why_not(self.index, self._segments, self.reflinks, ino, size)

    def plan_backing(self, ino: Ino, size: int) -> Plan | None:
        """Return how to make one where `backing` finds none, for `reflinks.keep`.

        Its `run` belongs in a worker thread. Raises Damaged, NoSpace, OSError.
        """
        if self._verifier is not None:
            return None
        return backing.plan(self.index, self._segments, self.reflinks, ino, size)

    def clone(self, txn: Txn, ino: Ino, new: Ino) -> None:
        """Let `new`, without extents, share all bytes of `ino`."""
        for extent in extents.overlapping(txn, ino, 0, FILE_MAX_BYTES):
            extents.map_range(txn, new, extent)

    def scrub(self, *, restart: bool = False) -> Scrub:
        """Return a pass that reads all chunks: the interrupted one, unless `restart`."""
        return Scrub(self.index, self._segments, restart=restart)

    def usage(self, ino: Ino) -> Usage:
        """Return what the file takes, from its committed extents."""
        ranges: dict[SegmentId, list[tuple[int, int]]] = {}
        logical = count = 0
        share, exclusive = 0.0, 0
        with self.index.read() as txn:
            for extent in extents.overlapping(txn, ino, 0, FILE_MAX_BYTES):
                start = extent.segment_offset
                ranges.setdefault(extent.segment, []).append((start, start + extent.length))
                logical += extent.length
                count += 1
            for segment, used in ranges.items():
                for own in tally(used):
                    for row in shares.rows(txn, segment, own.start, own.stop):
                        length = min(row.stop, own.stop) - max(row.start, own.start)
                        share += max(0, length) * own.users / row.users
                        exclusive += max(0, length) if own.users == row.users else 0
        return Usage(logical, round(share), exclusive, count)

    @property
    def write_back(self) -> WriteBack:
        """What is to be sent to the disk already."""
        return self._segments.write_back

    def statvfs(self) -> os.statvfs_result:
        """Return the state of the file system the store lies on."""
        return os.statvfs(self.path)

    def reclaim(self) -> tuple[list[Path], bool]:
        """Free some of what is unused; return files for `remove_files`, and whether to go on.

        Call `note_removed` with the files when they are gone: until then they count.
        """
        before = self.index.counters.allocated_bytes
        doomed, more = freeing.reclaim(self.index, self._segments, self._checkpoints)
        if doomed:
            # What was punched beside them is gone already: this is more than they take.
            freed = max(0, before - self.index.counters.allocated_bytes)
            self._being_removed[doomed[0]] = freed
        return doomed, more

    def note_removed(self, doomed: list[Path]) -> None:
        """Take note that `remove_files` has returned."""
        if doomed:
            self._being_removed.pop(doomed[0], None)

    @property
    def unsettled_bytes(self) -> int:
        """What the segments may take on disk beyond the counter `allocated_bytes`."""
        return self._segments.growth_bytes + sum(self._being_removed.values())

    @contextlib.contextmanager
    def within(self, room_bytes: int | None) -> Iterator[None]:
        """Let nothing in the block allocate more: it raises NoSpace."""
        self._segments.room_bytes = room_bytes
        try:
            yield
        finally:
            self._segments.room_bytes = None

    def begin_checkpoint(self) -> Checkpoint | None:
        """Return a checkpoint of all acknowledged so far, or None when that is durable already.

        Its `write` may run in a worker thread; then call `end_checkpoint`. One at a time.
        """
        self.index.restore_reserve()
        checkpoint = self._checkpoints.begin()
        if checkpoint is None:
            self._fold_if_wanted()
        return checkpoint

    def end_checkpoint(self, checkpoint: Checkpoint, *, succeeded: bool) -> None:
        """Take note of how a checkpoint ended; fold the journal into LMDB when it has grown."""
        self._checkpoints.end(checkpoint, succeeded=succeeded)
        if succeeded:
            self._fold_if_wanted()

    def _fold_if_wanted(self) -> None:
        if not self.index.wants_fold:
            return
        try:
            self._checkpoints.begin_fold()
        except (FsError, StoreError, OSError) as error:
            # The journal goes on, and all is durable: nobody who waits for that need know.
            log.warning("folding the journal, to be tried again: %s", error)

    def trim_memory(self) -> bool:
        """Let go of memory that is only page cache, if there is much; return whether it did."""
        return resident.trim(self.path / STORE_FILES["index"])

    def begin_backup(self) -> Backup | None:
        """Return a copy of the index whose `write` may run in a worker thread; None: nothing new."""
        return self._backups.begin()

    def close(self) -> None:
        """Seal, free, make all durable, unlock. All writers must be closed.

        Raises StoreError, after unlocking, when not all could be made durable: the next start
        replays the journal.
        """
        try:
            self._shelf.close()
            self._checkpoints.fold()
            more = True
            while more:
                doomed, more = self.reclaim()
                remove_files(doomed)
                self.note_removed(doomed)
            self._checkpoints.fold(clean=True)
            self._backups.at_end()
        except (FsError, OSError) as error:
            raise StoreError(
                f"store {self.path}: not all is durable: {error}; the next mount tries again"
            ) from error
        finally:
            self.index.close()
            self._lock.release()


def remove_files(paths: list[Path]) -> None:
    """Remove segment files that `reclaim` returned. May run in a worker thread."""
    for path in paths:
        path.unlink(missing_ok=True)


def _check_owner(path: Path) -> None:
    """Refuse a folder that another user could fill with links to what is not his, or read."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise StoreError(
            f"store {path} belongs to user {found.st_uid}, not to {os.geteuid()} who mounts: "
            "mount as that user, name another store, or change its owner"
        )
    if found.st_mode & 0o077:
        path.chmod(0o700)


def prepare(path: Path) -> None:
    """Make the folder of a store, or check that what is there is one this version reads."""
    path.mkdir(mode=0o700, exist_ok=True)
    _check_owner(path)
    marker = path / STORE_FILES["marker"]
    # An empty one is what a power cut leaves of a store being made.
    if not marker.exists() or not marker.stat().st_size:
        foreign = [entry for entry in path.iterdir() if entry.name not in STORE_FILES.values()]
        if foreign:
            raise NotAStore(
                f"{path} is not a dedupfs store and not empty: give an empty or new folder"
            )
        with marker.open("w") as file:
            file.write(f"{MARKER_PREFIX}{FORMAT_VERSION}\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path)
        sync_folder(path.parent)
        return
    text = marker.read_text(errors="replace")
    number = text.removeprefix(MARKER_PREFIX).strip()
    if not text.startswith(MARKER_PREFIX) or not number.isdigit():
        raise NotAStore(f"{marker} does not say what store this is: {text[:60]!r}")
    if int(number) > FORMAT_VERSION:
        raise StoreTooNew(
            f"store {path} has format {number}, this dedupfs reads up to {FORMAT_VERSION}: "
            "use a newer dedupfs"
        )
