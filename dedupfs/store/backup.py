"""A compact copy of the index beside it, for the day the index is gone.

It holds what cannot be made anew: inodes, names, attributes, extents, the rows of segments. Taken
from a snapshot (the index's last fold), at unmount and now and then; the one before is kept.

at   | what
-----|--------------------------------------------------------------------------------------
0    | HEAD: magic 8, format u32, epoch u64; then u64 checksum
20+8 | blocks: BLOCK: compressed length u32, plain length u32, u64 checksum seeded with the
     | block's number; then a zlib stream of rows as in the journal: CHANGE, key, value
end  | a block without bytes, then u64 count of rows
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

import xxhash

from dedupfs.core.errors import Corrupt, StoreTooNew
from dedupfs.core.format import CHANGE, FORMAT_VERSION, PAIR, STORE_FILES, TABLES, U64
from dedupfs.store import digest
from dedupfs.store.journal import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dedupfs.store.index import Index
    from dedupfs.store.txn import Txn

log = logging.getLogger(__name__)

MAGIC: Final = b"dedupfsB"
HEAD: Final = struct.Struct(">8sIQ")
BLOCK: Final = struct.Struct(">IIQ")
# `cookies` and `parents` are made from `dirents`; `shares`, `chunks`, `chunk_at` and `frees` from `extents`.
# `queue` is made from `units`, and without `evicted` only old evictions are not explained.
COPIED: Final = (
    "meta", "inodes", "dirents", "xattrs", "orphans", "extents", "segments", "damaged", "units",
    "history",
)  # fmt: skip
_BLOCK_BYTES: Final = 1 << 20
_BLOCK_MAX_BYTES: Final = 4 << 20  # one row more than a block
_ROWS_AT_ONCE: Final = 500  # half a millisecond of the interpreter, then others may
_PAUSE_S: Final = 0.005

assert HEAD.size == 8 + 4 + 8, "the table above"
assert BLOCK.size == 4 + 4 + 8, "the table above"


class Row(NamedTuple):
    """A row of a table."""

    table: str
    key: bytes
    value: bytes


class Backup:
    """A copy under way."""

    def __init__(self, store: Path, index: Index, note_made: Callable[[], None]) -> None:
        self._store = store
        self._index = index
        self._note_made = note_made
        self._stopped = False

    def stop(self) -> None:
        """Let `write` end soon, without a copy."""
        self._stopped = True

    def write(self, *, in_haste: bool = False) -> None:
        """Write the copy, durably. May run in a worker thread; pauses so that others may work.

        Raises OSError.
        """
        path = self._store / STORE_FILES["backup"]
        unfinished = path.with_name(STORE_FILES["new_backup"])
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file, self._index.snapshot() as txn:
                for part in self._parts(txn, 0 if in_haste else _PAUSE_S):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            if not self._stopped:
                _keep(path)
                unfinished.replace(path)
                sync_folder(self._store)
                self._note_made()
        finally:
            unfinished.unlink(missing_ok=True)

    def _parts(self, txn: Txn, pause_s: float) -> Iterator[bytes]:
        head = HEAD.pack(
            MAGIC, FORMAT_VERSION, U64.unpack(txn.get("meta", b"epoch") or bytes(8))[0]
        )
        yield head + _checksum(head, 0)
        count = number = size = 0
        rows: list[bytes] = []
        for table in COPIED:
            table_number = TABLES.index(table)
            for key, value in txn.scan(table, b""):
                rows += (CHANGE.pack(table_number, len(key), len(value)), key, value)
                size += CHANGE.size + len(key) + len(value)
                count += 1
                if count % _ROWS_AT_ONCE == 0:
                    if self._stopped:
                        return
                    if pause_s:
                        select.select((), (), (), pause_s)
                if size >= _BLOCK_BYTES:
                    yield _block(rows, number)
                    number, size = number + 1, 0
                    rows.clear()
        if rows:
            yield _block(rows, number)
            number += 1
        yield BLOCK.pack(0, 0, xxhash.xxh3_64_intdigest(b"", number)) + U64.pack(count)


class Backups:
    """Says when there is something to copy."""

    def __init__(self, store: Path, index: Index) -> None:
        self._store = store
        self._index = index
        is_there = index.was_clean and (store / STORE_FILES["backup"]).exists()
        self._copied = index.epoch if is_there else -1  # the epoch of the last copy
        self._covered = 0 if is_there else -1  # the changes it has

    def begin(self) -> Backup | None:
        """Return a copy to `write`, or None when there is nothing new.

        What is not folded yet will be soon, and is in the journal meanwhile.
        """
        index = self._index
        if index.has_changes:
            index.fold_soon = True
        if index.epoch == self._copied:
            return None
        epoch, covered = index.epoch, -1 if index.has_changes else index.changes_made

        def note_made() -> None:
            self._copied, self._covered = epoch, covered

        return Backup(self._store, index, note_made)

    def at_end(self) -> None:
        """Digest the index after its last fold; copy it, if it has changed since the last copy."""
        try:
            digest.write(self._store / STORE_FILES["index"])
            if self._index.changes_made == self._covered:
                return
            Backup(self._store, self._index, lambda: None).write(in_haste=True)
        except OSError as error:
            log.warning("no digest or no copy of the index: %s", error.strerror)


class Found(NamedTuple):
    """A copy that is whole."""

    path: Path
    epoch: int
    rows: int
    mtime_ns: int


def newest(store: Path) -> tuple[Found | None, list[str]]:
    """Return the newest copy that is whole, and why others are not."""
    problems: list[str] = []
    for name in ("backup", "old_backup"):
        path = store / STORE_FILES[name]
        try:
            epoch = _epoch(path)
            count = sum(1 for _row in rows(path))
            return Found(path, epoch, count, path.stat().st_mtime_ns), problems
        except FileNotFoundError:
            continue
        except (Corrupt, StoreTooNew) as error:
            problems.append(str(error))
    return None, problems


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a copy, and those of `cookies` and `parents`. Raises Corrupt, StoreTooNew, OSError.

    Only at the end is it known to be whole.
    """
    with path.open("rb") as file:
        _parse_head(path, file.read(HEAD.size + U64.size))
        number = count = 0
        while plain := _read_block(path, file, number):
            for row in _rows(path, plain):
                count += 1
                yield row
                if row.table == "dirents" and len(row.value) == PAIR.size:
                    yield from _entry_rows(row)
            number += 1
        if file.read() != U64.pack(count):
            raise Corrupt(f"{path}: has {count} rows, wants another number")


def _read_block(path: Path, file: BinaryIO, number: int) -> bytes:
    """Return what block `number` holds; nothing at the end."""
    raw = file.read(BLOCK.size)
    if len(raw) != BLOCK.size:
        raise Corrupt(f"{path}: cut off in block {number}")
    length, plain_length, checksum = BLOCK.unpack(raw)
    if length > _BLOCK_MAX_BYTES * 2 or plain_length > _BLOCK_MAX_BYTES:
        raise Corrupt(f"{path}: block {number} of {plain_length} bytes")
    body = file.read(length)
    if len(body) != length or xxhash.xxh3_64_intdigest(body, number) != checksum:
        raise Corrupt(f"{path}: block {number} is damaged")
    return _inflate(path, body, plain_length) if length else b""


def _entry_rows(dirent: Row) -> tuple[Row, Row]:
    (parent, name), (ino, cookie) = _halves(dirent.key), _halves(dirent.value)
    return Row("cookies", parent + cookie, ino + name), Row("parents", ino + cookie, parent)


def _halves(raw: bytes) -> tuple[bytes, bytes]:
    return raw[: U64.size], raw[U64.size :]


def _epoch(path: Path) -> int:
    with path.open("rb") as file:
        return _parse_head(path, file.read(HEAD.size + U64.size))


def _parse_head(path: Path, raw: bytes) -> int:
    head = raw[: HEAD.size]
    if len(raw) != HEAD.size + U64.size or raw[HEAD.size :] != _checksum(head, 0):
        raise Corrupt(f"{path}: the head is damaged")
    magic, version, epoch = HEAD.unpack(head)
    if magic != MAGIC:
        raise Corrupt(f"{path}: not a copy of an index")
    if version > FORMAT_VERSION:
        raise StoreTooNew(f"{path} has format {version}, this dedupfs reads up to {FORMAT_VERSION}")
    return int(epoch)


def _inflate(path: Path, body: bytes, length: int) -> bytes:
    try:
        plain = zlib.decompressobj().decompress(body, length + 1)
    except zlib.error as error:
        raise Corrupt(f"{path}: {error}") from error
    if len(plain) != length:
        raise Corrupt(f"{path}: a block of another length than it says")
    return plain


def _rows(path: Path, plain: bytes) -> Iterator[Row]:
    at = 0
    while at < len(plain):
        if len(plain) - at < CHANGE.size:
            raise Corrupt(f"{path}: a row is cut off")
        number, key_length, value_length = CHANGE.unpack_from(plain, at)
        stop = at + CHANGE.size + key_length + value_length
        if stop > len(plain) or number >= len(TABLES) or TABLES[number] not in COPIED:
            raise Corrupt(f"{path}: a row makes no sense")
        key = plain[at + CHANGE.size : at + CHANGE.size + key_length]
        yield Row(TABLES[number], key, plain[at + CHANGE.size + key_length : stop])
        at = stop


def _block(rows: list[bytes], number: int) -> bytes:
    plain = b"".join(rows)
    body = zlib.compress(plain, 1)
    return BLOCK.pack(len(body), len(plain), xxhash.xxh3_64_intdigest(body, number)) + body


def _checksum(raw: bytes, seed: int) -> bytes:
    return U64.pack(xxhash.xxh3_64_intdigest(raw, seed))


def _keep(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_name(STORE_FILES["old_backup"]))
