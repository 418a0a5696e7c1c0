"""The index of a store nobody has mounted, in one transaction: looked at, or changed as a whole.

Nothing on disk changes before `commit`: the
journal is replayed into the transaction, which is dropped at the end of the block, and LMDB's lock
file is not used (the store's own lock must be held). Only a commit that a power cut may have torn is
taken back first (store.rollback): nothing could be read else.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import lmdb

from dedupfs.core.errors import Corrupt, NoSpace, StoreTooNew
from dedupfs.core.format import FORMAT_VERSION, TABLES, U32, U64, Counters
from dedupfs.store import digest, instance, journal, pages, rollback
from dedupfs.store.environment import open_environment
from dedupfs.store.txn import Txn

if TYPE_CHECKING:
    import struct
    from collections.abc import Iterator
    from pathlib import Path


def rewrite(txn: Txn, table: str) -> None:
    """Store all rows of a table anew, in order: of rows with one key, the first."""
    rows = list(txn.scan(table, b""))
    txn.clear(table)
    for key, value in rows:
        txn.append(table, key, value)


class Offline:
    """An index opened by `opened`."""

    def __init__(self, env: lmdb.Environment, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []  # of the journal and of rows without which nothing opens
        self._env = env
        self._begin()
        self._check_format()
        self.epoch = self._number(b"epoch", U64, 0)
        self.was_clean = self._number(b"clean", U32, 1) != 0
        self.replayed = 0
        if not self.was_clean:
            self._replay()
        self.reload_counters()

    def _begin(self) -> None:
        raw = self._env.begin(write=True)
        tables = {name: self._env.open_db(name.encode(), txn=raw) for name in TABLES}
        self.txn = Txn(raw, tables, Counters())

    def _number(self, name: bytes, layout: struct.Struct, default: int) -> int:
        raw = self.txn.get("meta", name)
        if raw is None:
            return default
        if len(raw) != layout.size:
            self.problems.append(f"row {name.decode()} of meta: {len(raw)} bytes")
            return default
        return cast("int", layout.unpack(raw)[0])

    def _check_format(self) -> None:
        version = self._number(b"format", U32, FORMAT_VERSION)
        if version > FORMAT_VERSION:
            raise StoreTooNew(
                f"the store has format {version}, this dedupfs reads up to {FORMAT_VERSION}: "
                "use a newer dedupfs"
            )

    def _replay(self) -> None:
        path = journal.path_of(self.path, self.epoch)
        try:
            is_lost = (self.path / journal.SUSPECT).exists()
            found = journal.load(path, self.epoch, instance.current(self.path), is_lost=is_lost)
            for record in journal.records(found.raw, found.stop):
                self.apply(record)
                self.replayed += 1
        except FileNotFoundError:
            self.problems.append(f"{path} is missing: the last changes are lost")
        except Corrupt as error:
            self.problems.append(f"{error}: the last changes are lost")
            with contextlib.suppress(OSError, Corrupt, lmdb.Error):
                for record in journal.records(path.read_bytes()):
                    self.apply(record)
                    self.replayed += 1

    def apply(self, record: list[journal.Change]) -> None:
        """Make the changes of a journal record."""
        for table, key, value in record:
            if value is None:
                self.txn.delete(TABLES[table], key)
            else:
                self.txn.put(TABLES[table], key, value)
        self.txn.changes.clear()

    def reload_counters(self) -> None:
        """Take the counters as the tables have them."""
        raw = self.txn.get("meta", b"counters")
        try:
            self.txn.counters = Counters.unpack(raw) if raw else Counters()
        except Corrupt as error:
            self.problems.append(str(error))

    @property
    def is_new(self) -> bool:
        """Whether no store was ever opened with it."""
        return self.txn.get("meta", b"format") is None

    def commit(self) -> None:
        """Make all changes durable at once; a start then finds an index closed in order.

        Raises NoSpace; nothing has then changed.
        """
        digest.remove(self.path)
        instance.sync_file_system(self.path)
        try:
            self.txn.put("meta", b"format", U32.pack(FORMAT_VERSION))
            self.txn.put("meta", b"epoch", U64.pack(self.epoch + 1))
            self.txn.put("meta", b"clean", U32.pack(1))
            self.txn.put("meta", b"counters", self.txn.counters.pack())
            self.txn.lmdb_txn.commit()
            self._env.sync(force=True)
        except lmdb.Error as error:
            raise NoSpace(f"index: {error}") from error
        for path in self.path.glob("journal-*"):
            if self.problems:  # what could not be replayed is nobody's to remove
                path.rename(path.with_name(f"unread-{path.name}"))
            else:
                path.unlink()
        digest.write(self.path)
        journal.sync_folder(self.path)
        self.epoch += 1
        counters = self.txn.counters
        self._begin()
        self.txn.counters = counters

    def abort(self) -> None:
        """Drop what was not committed."""
        self.txn.lmdb_txn.abort()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Offline]:
    """Open the index in folder `path` as a start would find it; drop changes not committed.

    Raises Corrupt when it cannot be read, StoreTooNew.
    """
    rollback.roll_back(path, instance.current(path))
    pages.check(path / "data.mdb")
    env = open_environment(path, lock=False)
    index: Offline | None = None
    try:
        index = Offline(env, path)
        yield index
    except lmdb.Error as error:
        raise Corrupt(f"index {path}: {error}") from error
    finally:
        if index is not None:
            index.abort()
        env.close()
