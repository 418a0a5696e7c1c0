"""The journal file: what changed in the index since LMDB's last commit, as physical rows.

A record is one index transaction: the rows it set and removed. It is written to the page cache
before the operation is acknowledged, so a killed process loses nothing. `mark` makes durable how
far the journal may be replayed after a power cut; nothing behind the mark was promised. A journal
is begun by a commit of LMDB that is not synced; its first mark makes that durable, too, and says so
(store.rollback).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import xxhash

from dedupfs.core.errors import Corrupt
from dedupfs.core.format import (
    CHANGE,
    CHANGE_DELETED,
    JOURNAL_BASE_AT,
    JOURNAL_HEAD,
    JOURNAL_MAGIC,
    JOURNAL_MARK,
    JOURNAL_MARK_AT,
    JOURNAL_RECORDS_AT,
    RECORD_HEAD,
    TABLES,
    U64,
)
from dedupfs.store.instance import Instance, is_any_page_cached, is_cache_lost, uncache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Removing files writes to the journal too, and must work on a full disk.
_RESERVED_BYTES: Final = 1 << 20
_KEY_MAX_BYTES: Final = 511  # LMDB's limit
_LOOK_BYTES: Final = 64 << 10
DATA: Final = "data.mdb"  # LMDB's file
SUSPECT: Final = "suspect"  # there: the disk did not keep what came after the last checkpoint


class Change(NamedTuple):
    """A row set, or removed where `value` is None; `table` is its place in TABLES."""

    table: int
    key: bytes
    value: bytes | None


# What `Change` names, made without it where many are.
Row: TypeAlias = tuple[int, bytes, bytes | None]


class Journal:
    """A journal being written."""

    def __init__(self, folder: Path, epoch: int, instance: Instance, txn: int) -> None:
        """Make the journal of `epoch` in `folder`, durably. Raises OSError.

        It is begun by LMDB's transaction `txn`, which is not committed yet.
        """
        self.path = path_of(folder, epoch)
        self.position = JOURNAL_RECORDS_AT
        self.marked = JOURNAL_RECORDS_AT
        self._sequence = 0
        self.is_base_durable = False  # the commit that begins it
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._data_fd = -1
        try:
            self._data_fd = os.open(folder / DATA, os.O_RDONLY | os.O_CLOEXEC)
            os.posix_fallocate(self._fd, 0, _RESERVED_BYTES)
            head = JOURNAL_HEAD.pack(JOURNAL_MAGIC, epoch, *instance)
            os.pwrite(self._fd, head + _checksum(head), 0)
            base = U64.pack(txn)
            os.pwrite(self._fd, base + _checksum(base), JOURNAL_BASE_AT)
            os.fsync(self._fd)
            sync_folder(folder)
        except BaseException:
            self.remove()
            raise

    def append(self, changes: Sequence[Row]) -> None:
        """Write one record; it is whole in the page cache on return. Raises OSError."""
        parts = [b""]
        for table, key, value in changes:
            if value is None:
                parts += (CHANGE.pack(table, len(key), CHANGE_DELETED), key)
            else:
                parts += (CHANGE.pack(table, len(key), len(value)), key, value)
        body = b"".join(parts)
        parts = [RECORD_HEAD.pack(len(body), xxhash.xxh3_64_intdigest(body, self.position)), body]
        record = b"".join(parts)
        at = self.position
        while record:
            # A record cut short by an error is overwritten by the next.
            done = os.pwrite(self._fd, record, at)
            at, record = at + done, record[done:]
        self.position = at

    def mark(self, position: int) -> None:
        """Make everything before `position` durable. May run in a worker thread. Raises OSError."""
        if not self.is_base_durable:
            sync_file(self._data_fd)
        sequence = self._sequence + 1
        mark = JOURNAL_MARK.pack(sequence, position)
        os.pwrite(self._fd, mark + _checksum(mark), JOURNAL_MARK_AT[sequence % 2])
        sync_file(self._fd)
        self._sequence = sequence
        self.marked = max(self.marked, position)
        self.is_base_durable = True

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            if self._data_fd >= 0:
                os.close(self._data_fd)
            self._fd = -1

    def remove(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)


class Found(NamedTuple):
    """A journal that an earlier process left."""

    raw: bytes
    stop: int  # how far it is to be replayed
    is_cache_lost: bool  # by a power cut or the like: what was not durable is gone


class Beginning(NamedTuple):
    """What the head of a journal says."""

    written_by: Instance
    txn: int  # LMDB's transaction that began it
    is_marked: bool  # and is durable, then


def beginning(path: Path) -> Beginning | None:
    """Return what the head of a journal says; None: it is not whole, or says nothing of LMDB."""
    with path.open("rb") as file:
        raw = file.read(JOURNAL_RECORDS_AT)
    head = raw[: JOURNAL_HEAD.size]
    base = raw[JOURNAL_BASE_AT : JOURNAL_BASE_AT + U64.size]
    for part, at in ((head, JOURNAL_HEAD.size), (base, JOURNAL_BASE_AT + U64.size)):
        if raw[at : at + U64.size] != _checksum(part):
            return None
    _magic, _epoch, boot_id, mount_id = JOURNAL_HEAD.unpack(head)
    return Beginning(Instance(boot_id, mount_id), U64.unpack(base)[0], len(_marks(raw)) > 1)


def _marks(raw: bytes) -> list[tuple[int, int]]:
    """Return the whole marks: sequence and position; first the one that every journal has."""
    marks = [(0, JOURNAL_RECORDS_AT)]
    for at in JOURNAL_MARK_AT:
        mark = raw[at : at + JOURNAL_MARK.size]
        if raw[at + len(mark) : at + len(mark) + U64.size] == _checksum(mark):
            marks.append(JOURNAL_MARK.unpack(mark))
    return marks


def path_of(folder: Path, epoch: int) -> Path:
    """Return where the journal of `epoch` is."""
    return folder / f"journal-{epoch:016x}"


def load(path: Path, epoch: int, now: Instance, *, is_lost: bool = False) -> Found:
    """Return what the journal file holds; raise Corrupt when it is not the journal of `epoch`.

    `is_lost`: the disk is known not to have kept what came after the last checkpoint.
    """
    is_any_cached = is_any_page_cached(path)  # before it is read
    raw = path.read_bytes()
    if not is_any_cached:
        uncache(path)  # whoever reads it next wants to know that, too
    head = raw[: JOURNAL_HEAD.size]
    if len(raw) < JOURNAL_RECORDS_AT or raw[len(head) : len(head) + U64.size] != _checksum(head):
        raise Corrupt(f"{path}: the head is damaged")
    magic, found_epoch, boot_id, mount_id = JOURNAL_HEAD.unpack(head)
    if magic != JOURNAL_MAGIC or found_epoch != epoch:
        raise Corrupt(f"{path}: a journal of epoch {found_epoch}, want {epoch}")
    written_by = Instance(boot_id, mount_id)
    lost = is_lost or is_cache_lost(written_by, now, is_any_cached=is_any_cached)
    marks = _marks(raw)
    marked = max(marks)[1]
    _check_whole(path, raw, min(marks[-2:])[1] if lost else marked, is_cache_lost=lost)
    return Found(raw, marked if lost else len(raw), lost)


def _check_whole(path: Path, raw: bytes, durable: int, *, is_cache_lost: bool) -> None:
    """Raise Corrupt when a record rotted: one before `durable`, or one that others follow.

    The last record may be cut short, when the process was killed while it wrote it. After a power
    cut the last mark may be there without its records, the one before not.
    """
    stop = JOURNAL_RECORDS_AT
    while (end := _whole_record(raw, stop)) is not None:
        stop = end
    if stop < durable or (not is_cache_lost and _is_followed(raw, stop)):
        raise Corrupt(f"{path}: damaged at {stop}")


def _is_followed(raw: bytes, stop: int) -> bool:
    """Tell whether a whole record begins anywhere soon behind `stop`."""
    behind = raw[stop : stop + _LOOK_BYTES].rstrip(b"\0")
    return any(_whole_record(raw, stop + at) is not None for at in range(1, len(behind)))


def _whole_record(raw: bytes, at: int) -> int | None:
    """Return where the record at `at` ends, or None when there is none, or not all of it."""
    if at + RECORD_HEAD.size > len(raw):
        return None
    length, checksum = RECORD_HEAD.unpack_from(raw, at)
    stop = at + RECORD_HEAD.size + length
    if not length or stop > len(raw):
        return None
    body = raw[at + RECORD_HEAD.size : stop]
    return stop if xxhash.xxh3_64_intdigest(body, at) == checksum else None


def records(raw: bytes, stop: int | None = None) -> Iterator[list[Change]]:
    """Yield the records before `stop`, up to the first that is not whole. Raises Corrupt."""
    at = JOURNAL_RECORDS_AT
    stop = len(raw) if stop is None else min(stop, len(raw))
    while at + RECORD_HEAD.size < stop:
        end = _whole_record(raw, at)
        if end is None:
            return
        yield list(_changes(raw[at + RECORD_HEAD.size : end]))
        at = end


class NotKept(OSError):
    """The disk did not keep written bytes; syncing again would succeed without them."""


def sync_file(fd: int) -> None:
    """Make the bytes of a file durable. Raises NotKept."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise NotKept(error.errno, error.strerror) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _changes(body: bytes) -> Iterator[Change]:
    at = 0
    while at < len(body):
        if len(body) - at < CHANGE.size:
            raise Corrupt("journal: a change is cut off")
        table, key_length, value_length = CHANGE.unpack_from(body, at)
        at += CHANGE.size
        is_deleted = value_length == CHANGE_DELETED
        value_at = at + key_length
        stop = value_at if is_deleted else value_at + value_length
        if table >= len(TABLES) or not 0 < key_length <= _KEY_MAX_BYTES or stop > len(body):
            raise Corrupt(f"journal: a change of table {table} makes no sense")
        yield Change(table, body[at:value_at], None if is_deleted else body[value_at:stop])
        at = stop


def _checksum(raw: bytes) -> bytes:
    return xxhash.xxh3_64_digest(raw)
