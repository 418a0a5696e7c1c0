"""The LMDB index: transactions, tables as ordered byte maps, and the counters kept with them.

The only module that speaks LMDB. One write transaction at a time, on the thread that opened the
index, with no await inside: an operation is whole in the index or not there at all. LMDB runs
without sync; a commit puts its pages into the page cache, which a killed process does not lose.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from typing import TYPE_CHECKING, Final, cast

import lmdb

from dedupfs.core.errors import Corrupt, NoSpace, StoreError, StoreTooNew
from dedupfs.core.format import FORMAT_VERSION, TABLES, U32, Counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

# Address space only: the file grows as it is used. Halved until the process may map it.
_MAP_BYTES: Final = 1 << 40
_MAP_MIN_BYTES: Final = 1 << 30


class Txn:
    """A transaction: each table is a map of bytes to bytes in key order."""

    __slots__ = ("_tables", "_txn", "counters")

    def __init__(
        self, txn: lmdb.Transaction, tables: dict[str, lmdb._Database], counters: Counters
    ) -> None:
        self._txn = txn
        self._tables = tables
        self.counters = counters

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        return cast("bytes | None", self._txn.get(key, db=self._tables[table]))

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set the value under `key`."""
        self._txn.put(key, value, db=self._tables[table])

    def append(self, table: str, key: bytes, value: bytes) -> bool:
        """Set `key` only if it is new; return whether it was."""
        return bool(self._txn.put(key, value, overwrite=False, db=self._tables[table]))

    def delete(self, table: str, key: bytes) -> bool:
        """Remove `key`; return whether it was there."""
        return bool(self._txn.delete(key, db=self._tables[table]))

    def scan(
        self, table: str, start: bytes, stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield rows with `start <= key < stop` in key order.

        The table must not change while the iterator is in use: take a list first.
        """
        with self._txn.cursor(db=self._tables[table]) as cursor:
            if not cursor.set_range(start):
                return
            rows = cast("Iterator[tuple[bytes, bytes]]", cursor.iternext(keys=True, values=True))
            for key, value in rows:
                if stop is not None and key >= stop:
                    return
                yield key, value

    def floor(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the row with the greatest key `<= key`, or None."""
        with self._txn.cursor(db=self._tables[table]) as cursor:
            at_or_after = cursor.set_range(key)
            found = (cursor.key() == key or cursor.prev()) if at_or_after else cursor.last()
            return cast("tuple[bytes, bytes]", cursor.item()) if found else None

    def rows(self, table: str) -> int:
        """Return how many rows the table has."""
        return int(self._txn.stat(db=self._tables[table])["entries"])


class Index:
    """An open index environment."""

    def __init__(self, path: Path) -> None:
        """Open or create the index in folder `path`.

        Raises StoreTooNew for a newer format, Corrupt for one that cannot be read.
        """
        self._env = _open_environment(path)
        self._tables: dict[str, lmdb._Database] = {}
        try:
            with self._env.begin(write=True) as txn:
                for table in TABLES:
                    self._tables[table] = self._env.open_db(table.encode(), txn=txn)
                self._check_format(txn)
                raw = txn.get(b"counters", db=self._tables["meta"])
            self._committed = raw or Counters().pack()
            self.counters = Counters.unpack(self._committed)
        except lmdb.Error as error:
            self._env.close()
            raise Corrupt(f"index {path}: {error}") from error
        except BaseException:
            self._env.close()
            raise
        self._writing = False

    def _check_format(self, txn: lmdb.Transaction) -> None:
        meta = self._tables["meta"]
        raw = txn.get(b"format", db=meta)
        if raw is None:
            txn.put(b"format", U32.pack(FORMAT_VERSION), db=meta)
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

    @contextlib.contextmanager
    def read(self) -> Iterator[Txn]:
        """Open a snapshot of the last commit."""
        with self._env.begin(buffers=False) as txn:
            yield Txn(txn, self._tables, self.counters)

    @contextlib.contextmanager
    def write(self) -> Iterator[Txn]:
        """Open a write transaction: committed at the end of the block, undone by an exception.

        Raises NoSpace when the index cannot grow.
        """
        assert not self._writing, "one write transaction at a time"
        self._writing = True
        try:
            with self._env.begin(write=True) as txn:
                yield Txn(txn, self._tables, self.counters)
                packed = self.counters.pack()
                if packed != self._committed:
                    txn.put(b"counters", packed, db=self._tables["meta"])
            self._committed = packed
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            self._undo_counters()
            raise NoSpace(f"index: {error}") from error
        except BaseException:
            self._undo_counters()
            raise
        finally:
            self._writing = False

    def _undo_counters(self) -> None:
        # In place: others hold a reference to the object.
        old = Counters.unpack(self._committed)
        for name in Counters.__slots__:
            setattr(self.counters, name, getattr(old, name))

    def size_bytes(self) -> int:
        """Return the bytes the index's pages take on disk."""
        info, stat = self._env.info(), self._env.stat()
        return (info["last_pgno"] + 1) * stat["psize"]

    def sync(self) -> None:
        """Make all commits durable. May run in a worker thread."""
        self._env.sync(True)  # noqa: FBT003 - LMDB's own signature

    def close(self) -> None:
        """Close the environment; no transaction may be open."""
        self._env.close()


def _open_environment(path: Path) -> lmdb.Environment:
    path.mkdir(mode=0o700, exist_ok=True)
    map_bytes = _MAP_BYTES
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=map_bytes,
                max_dbs=len(TABLES),
                sync=False,
                metasync=False,
                readahead=False,
                meminit=False,
                mode=0o600,
                max_spare_txns=4,
            )
        except lmdb.MemoryError:
            if map_bytes <= _MAP_MIN_BYTES:
                raise StoreError(
                    f"index {path}: not enough address space (see ulimit -v)"
                ) from None
            map_bytes //= 2
        except lmdb.Error as error:
            raise Corrupt(f"index {path}: {error}") from error
