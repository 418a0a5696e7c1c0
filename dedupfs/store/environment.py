"""LMDB's environment: opened, given its tables, looked at while nobody has it open."""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Final

import lmdb

from dedupfs.core.errors import Corrupt, StoreError, StoreTooNew
from dedupfs.core.format import FORMAT_VERSION, TABLES, U32, U64, Counters
from dedupfs.store import instance, journal, rollback
from dedupfs.store.txn import LAST_KEY

if TYPE_CHECKING:
    from pathlib import Path

# Address space only: the file grows as it is used. Halved until the process may map it.
_MAP_BYTES: Final = 1 << 40
_MAP_MIN_BYTES: Final = 1 << 30
_OFTEN_EMPTY: Final = ("orphans", "frees", "damaged")


def peek(path: Path) -> tuple[Counters, int]:
    """Return the counters and the size in bytes of an index nobody has open.

    Changes nothing. Raises StoreTooNew, Corrupt.
    """
    if rollback.is_needed(path, instance.current(path.parent)):
        raise Corrupt(f"index {path}: the power went while it was saved: the next mount mends that")
    try:
        env = lmdb.open(str(path), readonly=True, lock=False, create=False, max_dbs=len(TABLES))
        with contextlib.closing(env), env.begin() as txn:
            meta = env.open_db(b"meta", txn=txn, create=False)
            version = U32.unpack(txn.get(b"format", U32.pack(0), db=meta))[0]
            if version > FORMAT_VERSION:
                raise StoreTooNew(
                    f"the store has format {version}, this dedupfs reads up to {FORMAT_VERSION}: "
                    "use a newer dedupfs"
                )
            folded = txn.get(b"counters", db=meta)
            epoch = U64.unpack(txn.get(b"epoch", U64.pack(0), db=meta))[0]
            is_clean = txn.get(b"clean", db=meta) != U32.pack(0)
            size_bytes = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    except (lmdb.Error, struct.error) as error:
        raise Corrupt(f"index {path}: {error}") from error
    raw = (None if is_clean else _journalled_counters(path, epoch)) or folded
    return Counters.unpack(raw) if raw else Counters(), size_bytes


def _journalled_counters(path: Path, epoch: int) -> bytes | None:
    """Return the counters a killed process wrote last, if that was behind the last commit.

    Other journals are of commits made before, or of one that had not begun.
    """
    left, last = journal.path_of(path, epoch), None
    if not left.exists():
        raise Corrupt(f"{left} is missing: without it the last changes are lost")
    is_lost = (path / journal.SUSPECT).exists()
    found = journal.load(left, epoch, instance.current(path.parent), is_lost=is_lost)
    for record in journal.records(found.raw, found.stop):
        for table, key, value in record:
            if TABLES[table] == "meta" and key == b"counters":
                last = value
    return last


def make_tables(path: Path) -> None:
    """Make the tables that are missing, durably, and what a killed process committed. Raises Corrupt.

    Later commits can be taken back (store.rollback), this one not.
    """
    env = open_environment(path)
    try:
        with contextlib.closing(env), env.begin(write=True) as txn:
            if 0 < txn.stat()["entries"] < len(TABLES):
                # An older version was killed: what it committed refers to segments not synced yet.
                instance.sync_file_system(path)
            for table in TABLES:
                database = env.open_db(table.encode(), txn=txn)
                if table in _OFTEN_EMPTY:
                    txn.put(LAST_KEY, b"", db=database, overwrite=False)
        sync_data(path)
    except lmdb.Error as error:
        raise Corrupt(f"index {path}: {error}") from error


def sync_data(path: Path) -> None:
    """Make LMDB's file durable. Raises OSError."""
    fd = os.open(path / journal.DATA, os.O_RDONLY | os.O_CLOEXEC)
    try:
        journal.sync_file(fd)
    finally:
        os.close(fd)


def open_environment(path: Path, *, lock: bool = True, sync: bool = True) -> lmdb.Environment:
    """Open LMDB in folder `path`, made if missing; raise Corrupt, or StoreError for want of room.

    Without `lock` the caller sees to it that nobody else has it open; without `sync` that commits
    become durable.
    """
    map_bytes = _MAP_BYTES
    while True:
        try:
            return lmdb.open(
                str(path),
                map_size=map_bytes,
                max_dbs=len(TABLES),
                lock=lock,
                sync=sync,
                readahead=False,
                meminit=False,
                mode=0o600,
            )
        except lmdb.MemoryError:
            if map_bytes <= _MAP_MIN_BYTES:
                raise StoreError(
                    f"index {path}: not enough address space (see ulimit -v)"
                ) from None
            map_bytes //= 2
        except lmdb.Error as error:
            raise Corrupt(f"index {path}: {error}") from error
