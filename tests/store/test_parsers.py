"""Bytes from the disk that are not what they should be: a value or a clear error, nothing else."""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dedupfs.core.errors import DedupfsError, StoreError
from dedupfs.core.format import (
    CHANGE,
    JOURNAL_HEAD,
    JOURNAL_MAGIC,
    JOURNAL_MARK,
    JOURNAL_MARK_AT,
    JOURNAL_RECORDS_AT,
    RECORD_HEAD,
    TABLES,
    U64,
    Counters,
    Inode,
    unpack_cookie_entry,
    unpack_dirent,
    unpack_extent,
    unpack_pair,
)
from dedupfs.core.types import SegmentId
from dedupfs.store import backup, chunks, damage, digest, instance, journal, lock, pages, shares
from store.broken import make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FAST = settings(
    max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 255),
        st.integers(0, 600),
        st.integers(0, 0xFFFFFFFF) | st.integers(0, 50),
        st.binary(max_size=60),
    ),
    max_size=5,
).map(lambda rows: b"".join(CHANGE.pack(*row[:3]) + row[3] for row in rows))


@contextlib.contextmanager
def only_store_errors() -> Iterator[None]:
    with contextlib.suppress(StoreError):
        yield


ROWS: list[Callable[[bytes], object]] = [
    Inode.unpack,
    Counters.unpack,
    unpack_pair,
    unpack_dirent,
    unpack_cookie_entry,
    lambda raw: unpack_extent(raw[:16], raw[16:]),
    lambda raw: chunks._unpack(raw[:16], raw[16:]),
    lambda raw: shares._unpack(SegmentId(1), raw[:16], raw[16:]),
    damage._length,
]


@FAST
@given(raw=st.binary(max_size=200))
def test_rows(raw: bytes) -> None:
    for parse in ROWS:
        with only_store_errors():
            parse(raw)


@FAST
@given(raw=st.binary(max_size=4096) | st.text().map(str.encode))
def test_the_text_of_a_lock(raw: bytes) -> None:
    assert lock._describe(raw)


@pytest.mark.parametrize(
    "raw", [b"1e999", b"[" * 4000, b'{"pid": 1e999, "holder": 1}', b'{"pid": "1", "holder": []}']
)
def test_the_text_of_a_lock_that_json_chokes_on(raw: bytes) -> None:
    assert lock._describe(raw)


def _journal(body: bytes, *, records: bytes, marks: tuple[bytes, bytes], epoch: int = 7) -> bytes:
    """Return a journal file whose checksums are right, whatever it says."""
    head = JOURNAL_HEAD.pack(JOURNAL_MAGIC, epoch, bytes(16), 0)
    raw = bytearray(JOURNAL_RECORDS_AT)
    raw[: len(head) + 8] = head + xxhash.xxh3_64_digest(head)
    for at, mark in zip(JOURNAL_MARK_AT, marks, strict=True):
        raw[at : at + len(mark) + 8] = mark + xxhash.xxh3_64_digest(mark)
    checksum = xxhash.xxh3_64_intdigest(body, JOURNAL_RECORDS_AT)
    return bytes(raw) + RECORD_HEAD.pack(len(body), checksum) + body + records


def _read_journal(path: Path) -> None:
    with only_store_errors():
        found = journal.load(path, 7, instance.current(path.parent))
        for record in journal.records(found.raw, found.stop):
            for change in record:
                assert change.table < len(TABLES)
                assert change.key


@FAST
@given(
    body=CHANGES | st.binary(max_size=100),
    records=st.binary(max_size=200),
    marks=st.tuples(*[st.binary(max_size=16) | st.builds(
        JOURNAL_MARK.pack, st.integers(0, 1 << 63), st.integers(0, 1 << 63)
    )] * 2),
)  # fmt: skip
def test_journals_with_right_checksums(
    tmp_path: Path, body: bytes, records: bytes, marks: tuple[bytes, bytes]
) -> None:
    path = tmp_path / "journal"
    path.write_bytes(_journal(body, records=records, marks=marks))
    _read_journal(path)


@FAST
@given(raw=st.binary(max_size=9000))
def test_journals_of_any_bytes(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(raw)
    _read_journal(path)


def _copy(blocks: list[bytes], end: bytes) -> bytes:
    """Return a copy of an index whose checksums are right, whatever it says."""
    head = backup.HEAD.pack(backup.MAGIC, 1, 7)
    parts = [head + U64.pack(xxhash.xxh3_64_intdigest(head, 0))]
    for number, plain in enumerate(blocks):
        body = zlib.compress(plain, 1)
        checksum = xxhash.xxh3_64_intdigest(body, number)
        parts.append(backup.BLOCK.pack(len(body), len(plain), checksum) + body)
    return b"".join(parts) + end


@FAST
@given(blocks=st.lists(CHANGES | st.binary(max_size=50), max_size=3), end=st.binary(max_size=40))
def test_copies_with_right_checksums(tmp_path: Path, blocks: list[bytes], end: bytes) -> None:
    path = tmp_path / "index.backup"
    path.write_bytes(_copy(blocks, end))
    with only_store_errors():
        list(backup.rows(path))
    backup.newest(tmp_path)


@FAST
@given(raw=st.binary(max_size=300))
def test_copies_of_any_bytes(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "index.backup"
    path.write_bytes(raw)
    with only_store_errors():
        list(backup.rows(path))


def test_a_copy_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    body = zlib.compress(bytes(1 << 28), 9)
    raw = _copy([], backup.BLOCK.pack(len(body), 100, xxhash.xxh3_64_intdigest(body, 0)) + body)
    (tmp_path / "index.backup").write_bytes(raw)
    with pytest.raises(StoreError):
        list(backup.rows(tmp_path / "index.backup"))


@FAST
@given(raw=st.binary(max_size=20_000), at=st.integers(0, 5000))
def test_pages_of_any_bytes(tmp_path: Path, raw: bytes, at: int) -> None:
    store = tmp_path / "store"
    if not store.exists():
        make(store)
    whole = (store / "index" / "data.mdb").read_bytes()
    for data in (raw, whole[:at] + raw + whole[at + len(raw) :]):
        (tmp_path / "data.mdb").write_bytes(data)
        (tmp_path / "digest").write_bytes(raw)
        with contextlib.suppress(DedupfsError):
            pages.check(tmp_path / "data.mdb")
        with only_store_errors():
            digest.check(tmp_path)
