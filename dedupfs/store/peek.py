"""A look at the counters of a store nobody has mounted: read-only, changes nothing on disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

import lmdb

from dedupfs.core.errors import Corrupt, StoreError, StoreInUse, StoreTooNew
from dedupfs.core.format import FORMAT_VERSION, STORE_FILES, TABLES, U32, Counters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def counters(store: Path) -> tuple[Counters, int]:
    """Return the counters and the index's size in bytes.

    Raises StoreInUse, StoreTooNew, Corrupt, or StoreError when it may not be read.
    """
    try:
        with _unused(store):
            folder = store / STORE_FILES["index"]
            if not (folder / "data.mdb").exists():
                return Counters(), 0
            return _read(folder)
    except OSError as error:
        raise StoreError(f"store {store}: {error.strerror}") from None
    except lmdb.Error as error:
        raise Corrupt(f"index of store {store}: {error}") from None


@contextlib.contextmanager
def _unused(store: Path) -> Iterator[None]:
    # Shared, so that two looks do not meet; a daemon that starts meanwhile tries again.
    try:
        fd = os.open(store / STORE_FILES["lock"], os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreInUse(
            f"store {store} is in use by a process that does not answer: it starts or ends, "
            "try again"
        ) from None
    finally:
        os.close(fd)


def _read(folder: Path) -> tuple[Counters, int]:
    environment = lmdb.open(
        str(folder), readonly=True, lock=False, create=False, max_dbs=len(TABLES), readahead=False
    )
    with contextlib.closing(environment), environment.begin() as txn:
        meta = environment.open_db(b"meta", txn=txn, create=False)
        version = U32.unpack(txn.get(b"format", U32.pack(0), db=meta))[0]
        if version > FORMAT_VERSION:
            raise StoreTooNew(
                f"the store has format {version}, this dedupfs reads up to {FORMAT_VERSION}: "
                "use a newer dedupfs"
            )
        raw = txn.get(b"counters", db=meta)
        info, stat = environment.info(), environment.stat()
        size_bytes = (info["last_pgno"] + 1) * stat["psize"]
        return Counters.unpack(raw) if raw else Counters(), size_bytes
