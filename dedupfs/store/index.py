"""The index: transactions over LMDB tables, whole after a kill and after a power cut.

One LMDB write transaction stays open; an operation changes it, and what it changed is appended to
the journal before the operation is acknowledged. `fold` commits it and starts the next journal. The
commit does not wait for the disk (measured, 200 ms after 5 s of creates, in which nobody would be
answered): it is synced by a worker, with the new journal's first mark, and taken back by the next
start if the power goes before (store.rollback).

DESIGN.md has a commit for each operation and pins the checkpoint's pages with a read transaction.
Measured, such a commit rewrites 15 to 35 pages for a create and its close, and pages freed under the
pin are not used again: 5 s of creates grew the index by hundreds of MB. A journal record is under
1 KB.

Transactions belong to the thread that opened the index, with no await inside.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
from typing import TYPE_CHECKING, Final

import lmdb

from dedupfs.core.errors import Corrupt, NoSpace, QuotaExceeded, StoreError, StoreTooNew
from dedupfs.core.format import (
    FORMAT_VERSION,
    JOURNAL_RECORDS_AT,
    TABLES,
    U32,
    U64,
    Counters,
)
from dedupfs.store import environment, instance, journal
from dedupfs.store.journal import Change, Journal, Row
from dedupfs.store.reserve import Reserve
from dedupfs.store.txn import Txn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

# A fold writes and syncs the pages changed since the last: this bounds its time and memory.
_FOLD_CHANGES: Final = 30_000
_FOLD_BYTES: Final = 8 << 20
_TABLE_NUMBER: Final = {name: number for number, name in enumerate(TABLES)}
_FULL: Final = {errno.ENOSPC: NoSpace, errno.EDQUOT: QuotaExceeded}


class Index:
    """An open index."""

    def __init__(self, path: Path) -> None:
        """Open or create the index in folder `path`; replay what an earlier process left.

        After a kill that is the whole journal, after a power cut the journal up to the last
        checkpoint. Raises StoreTooNew, Corrupt, StoreError, NoSpace.
        """
        self._path = path
        self._instance = instance.current(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        environment.make_tables(path)
        self._env = environment.open_environment(path, sync=False)
        try:
            self._open()
        except lmdb.Error as error:
            self._env.close()
            raise Corrupt(f"index {path}: {error}") from error
        except BaseException:
            self._env.close()
            raise

    def _open(self) -> None:
        self._env.reader_check()  # what dead processes left would keep pages from being used again
        self._writing = False
        self._changes_since_fold = 0
        self.changes_made = 0
        self.fold_soon = False  # asked for by who wants a snapshot
        self._tables: dict[str, lmdb._Database] = {}
        with self._env.begin(write=True) as txn:  # changes nothing: so nothing is committed
            for table in TABLES:
                self._tables[table] = self._env.open_db(table.encode(), txn=txn, create=False)
        self.counters = Counters()
        self.reserve = Reserve(self._path / "reserve")
        try:
            self._begin()
        except (NoSpace, QuotaExceeded):
            if not self.reserve.give():
                raise
            self._begin()
        self.restore_reserve()

    def _begin(self) -> None:
        self._txn = Txn(self._env.begin(write=True), self._tables, self.counters)
        try:
            self._replay()
            self._fold()
            self.marker().mark(self.position)
            self.remove_old_journals()
            self._suspect.unlink(missing_ok=True)
        except BaseException as error:
            if isinstance(error, journal.NotKept):
                self.note_lost()
            with contextlib.suppress(lmdb.Error):
                self._txn.lmdb_txn.abort()
            raise

    def _replay(self) -> None:
        self._check_format()
        raw = self._txn.get("meta", b"epoch")
        self._epoch = U64.unpack(raw)[0] if raw else 0
        self.was_clean = self._txn.get("meta", b"clean") != U32.pack(0)
        self._journal: Journal | None = None
        self._replay_left()
        self._load_counters()
        self._txn.put("meta", b"clean", U32.pack(0))

    def _load_counters(self) -> None:
        raw = self._txn.get("meta", b"counters")
        self._set_counters(Counters.unpack(raw) if raw else Counters())

    def _set_counters(self, new: Counters) -> None:
        # In place: others hold a reference to the object.
        for name in Counters.__slots__:
            setattr(self.counters, name, getattr(new, name))
        self._packed_counters = new.pack()

    def _check_format(self) -> None:
        raw = self._txn.get("meta", b"format")
        if raw is None:
            self._txn.put("meta", b"format", U32.pack(FORMAT_VERSION))
            return
        try:
            (version,) = U32.unpack(raw)
        except struct.error as error:
            raise Corrupt(f"format version: {len(raw)} bytes, want {U32.size}") from error
        if version > FORMAT_VERSION:
            raise StoreTooNew(
                f"the store has format {version}, this dedupfs reads up to {FORMAT_VERSION}: "
                "use a newer dedupfs"
            )

    def _replay_left(self) -> None:
        """Replay the journal of this epoch, if a process that did not end in order left one."""
        path = journal.path_of(self._path, self._epoch)
        if self.was_clean:
            return
        if not path.exists():
            raise Corrupt(f"{path} is missing: without it the last changes are lost")
        found = journal.load(path, self._epoch, self._instance, is_lost=self._suspect.exists())
        count = 0
        for record in journal.records(found.raw, found.stop):
            self._apply(record)
            count += 1
        how = "lost power" if found.is_cache_lost else "was killed"
        log.warning("the last process %s: replayed %d operations", how, count)
        if not found.is_cache_lost:
            # Segments it wrote may be in the page cache only, and the fold must not outlive them.
            instance.sync_file_system(self._path)

    def _apply(self, record: list[Change]) -> None:
        for table, key, value in record:
            if value is None:
                self._txn.delete(TABLES[table], key)
            else:
                self._txn.put(TABLES[table], key, value)
        self._txn.changes.clear()

    def read(self) -> Txn:
        """Open a look at the tables as the last transaction left them."""
        return self._txn

    @contextlib.contextmanager
    def write(self) -> Iterator[Txn]:
        """Open a write transaction: whole at the end of the block, undone by an exception.

        At the end a killed process no longer loses it. Raises NoSpace, QuotaExceeded.
        """
        assert not self._writing, "one write transaction at a time"
        self._writing = True
        try:
            yield self._txn
            self._acknowledge()
        except BaseException as error:
            self._undo(is_broken=isinstance(error, lmdb.Error))
            if isinstance(error, lmdb.Error):
                raise NoSpace(f"index: {error}") from error
            raise
        finally:
            self._writing = False

    def _acknowledge(self) -> None:
        packed = self.counters.pack()
        if packed != self._packed_counters:
            self._txn.put("meta", b"counters", packed)
        changes = self._txn.changes
        if not changes:
            return
        assert self._journal is not None, "opened"
        record = [(_TABLE_NUMBER[table], key, value) for table, key, value, _old in changes]
        try:
            self._append(record)
        except (NoSpace, QuotaExceeded):
            if not self.reserve.give():
                raise
            self._append(record)
        self._changes_since_fold += len(changes)
        self.changes_made += len(changes)
        self._packed_counters = packed
        changes.clear()

    def _append(self, record: list[Row]) -> None:
        assert self._journal is not None, "opened"
        try:
            self._journal.append(record)
        except OSError as error:
            if error.errno in _FULL:
                raise _FULL[error.errno](f"journal: {error.strerror}") from error
            raise

    def _undo(self, *, is_broken: bool) -> None:
        # An operation that LMDB failed ends its transaction, whether or not it had changed a row.
        try:
            if not is_broken:
                self._txn.undo()
        except lmdb.Error:
            is_broken = True
        if is_broken:
            self._rebuild()
        self._set_counters(Counters.unpack(self._packed_counters))

    def _rebuild(self) -> None:
        """Make the open transaction anew from LMDB's last commit and the journal."""
        assert self._journal is not None, "opened"
        with contextlib.suppress(lmdb.Error):  # a commit that failed has ended it
            self._txn.lmdb_txn.abort()
        try:
            self._txn.lmdb_txn = self._env.begin(write=True)
        except lmdb.Error as error:
            raise StoreError(f"index: {error}: unmount, and mount again") from error
        self._txn.changes.clear()
        for record in journal.records(self._journal.path.read_bytes(), self._journal.position):
            self._apply(record)
        self._load_counters()

    @property
    def position(self) -> int:
        """How far the journal is written: all acknowledged operations are before it."""
        return self._journal.position if self._journal else 0

    @property
    def is_marked(self) -> bool:
        """Whether a power cut would lose nothing."""
        journal = self._journal
        return (
            journal is not None and journal.is_base_durable and journal.marked == journal.position
        )

    @property
    def unmarked_frees(self) -> dict[int, set[int]]:
        """By segment, the starts of ranges freed since the last checkpoint began."""
        return self._txn.unmarked_frees

    def take_unmarked_frees(self) -> dict[int, set[int]]:
        """Return them, and start anew."""
        taken, self._txn.unmarked_frees = self._txn.unmarked_frees, {}
        return taken

    def give_back_unmarked_frees(self, starts: dict[int, set[int]]) -> None:
        """Note again those of a checkpoint that failed."""
        for segment, found in starts.items():
            self._txn.unmarked_frees.setdefault(segment, set()).update(found)

    @property
    def _suspect(self) -> Path:
        return self._path / journal.SUSPECT

    def note_lost(self) -> None:
        """Let the next start go back to the last checkpoint: the disk did not keep what came after.

        The note need not be durable: a new boot goes back there, too.
        """
        with contextlib.suppress(OSError):
            self._suspect.touch(0o600)

    def marker(self) -> Journal:
        """Return the journal, for `mark` in a worker thread."""
        assert self._journal is not None, "opened"
        return self._journal

    @property
    def epoch(self) -> int:
        """The number of the last fold."""
        return self._epoch

    @property
    def has_changes(self) -> bool:
        """Whether anything has changed since the last fold."""
        return self._changes_since_fold > 0

    @property
    def wants_fold(self) -> bool:
        """Whether enough has changed since the last fold, or someone waits for it."""
        if self.has_changes and (self.fold_soon or self.reserve.is_short):
            return True
        return self.position > _FOLD_BYTES or self._changes_since_fold > _FOLD_CHANGES

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Txn]:
        """Open a look at the tables as of the last fold; may run in a worker thread.

        Raises StoreError.
        """
        try:
            with self._env.begin() as raw:
                yield Txn(raw, self._tables, Counters())
        except lmdb.Error as error:
            raise StoreError(f"index: {error}") from error

    def fold(self, *, clean: bool = False) -> None:
        """Commit everything to LMDB and start the next journal; the next mark makes it durable.

        `clean` says that the process ends in order: it is durable on return and no journal follows,
        and all segment bytes the index refers to must be. Raises NoSpace; the old journal then
        goes on.
        """
        assert not self._writing, "not inside a transaction"
        try:
            self._fold(clean=clean)
        except (NoSpace, QuotaExceeded):
            if not self.reserve.give():
                raise
            self._fold(clean=clean)
        self.restore_reserve()

    def restore_reserve(self) -> bool:
        """Set room aside for the next fold; return whether new bytes may be stored."""
        return self.reserve.restore(self.position)

    def _fold(self, *, clean: bool = False) -> None:
        old = self._journal
        if old is not None and not old.is_base_durable:
            old.mark(JOURNAL_RECORDS_AT)  # a commit may write where the one before the last was
        new = self._next_journal()
        try:
            self._txn.put("meta", b"epoch", U64.pack(self._epoch + 1))
            self._txn.put("meta", b"clean", U32.pack(int(clean)))
            self._txn.changes.clear()
            self._txn.lmdb_txn.commit()
        except lmdb.Error as error:
            new.remove()
            if old is not None:
                self._rebuild()
            raise NoSpace(f"index: {error}") from error
        self._epoch += 1
        self._changes_since_fold = 0
        self.fold_soon = False
        self._journal = new
        if old is not None:
            old.close()
        if clean:
            new.mark(new.position)
            new.close()
            self._journal = None
            self.remove_old_journals()
        else:
            self._txn.lmdb_txn = self._env.begin(write=True)

    def remove_old_journals(self) -> None:
        """Remove what the last commit has, if that is durable."""
        new = self._journal
        if new is not None and not new.is_base_durable:
            return
        for path in self._path.glob("journal-*"):
            if new is None or path != new.path:
                path.unlink()

    def _next_journal(self) -> Journal:
        try:
            return Journal(self._path, self._epoch + 1, self._instance, self._txn.lmdb_txn.id())
        except OSError as error:
            raise _FULL.get(error.errno or 0, StoreError)(f"journal: {error.strerror}") from error

    def size_bytes(self) -> int:
        """Return the bytes the index takes on disk."""
        info, stat = self._env.info(), self._env.stat()
        return (info["last_pgno"] + 1) * stat["psize"] + self.position

    def close(self) -> None:
        """Close in order, if the last call was `fold(clean=True)`; else as a kill would."""
        if self._journal is not None:
            self._txn.lmdb_txn.abort()
            self._journal.close()
        self._env.close()
