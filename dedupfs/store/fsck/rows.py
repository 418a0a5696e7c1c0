"""The rows themselves: lengths, order, and whether each is found under its key.

And columns: millions of rows as numpy arrays, a few bytes a row.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dedupfs.core.format import (
    CHUNK,
    EVICTED,
    EXTENT,
    FINGERPRINT_BYTES,
    INODE,
    PAIR,
    QUEUED,
    SEGMENT,
    SHARE,
    TABLES,
    U32,
    U64,
    UNIT,
)
from dedupfs.core.types import NAME_MAX_BYTES
from dedupfs.store import offline
from dedupfs.store.fsck.findings import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from dedupfs.store.fsck.findings import Progress
    from dedupfs.store.txn import Txn

_ANY: Final = 1 << 40
_NUMBER_MAX: Final = b"\x10"  # inodes and segments are counted from 1
_STEP: Final = 20_000  # rows between looks at the progress


class _Lengths(NamedTuple):
    """Bytes a key and a value may have, both ends included."""

    key_min: int
    key_max: int
    value_min: int
    value_max: int


def _fixed(key: int, value: int) -> _Lengths:
    return _Lengths(key, key, value, value)


_LENGTHS: Final[Mapping[str, _Lengths]] = {
    "inodes": _Lengths(U64.size, U64.size, INODE.size, INODE.size + 4095),
    "dirents": _Lengths(U64.size + 1, U64.size + NAME_MAX_BYTES, PAIR.size, PAIR.size),
    "cookies": _Lengths(PAIR.size, PAIR.size, U64.size + 1, U64.size + NAME_MAX_BYTES),
    "parents": _fixed(PAIR.size, U64.size),
    "xattrs": _Lengths(U64.size + 1, U64.size + NAME_MAX_BYTES, 0, _ANY),
    "orphans": _fixed(U64.size, 0),
    "extents": _fixed(PAIR.size, EXTENT.size),
    "segments": _fixed(U64.size, SEGMENT.size),
    "shares": _fixed(PAIR.size, SHARE.size),
    "chunks": _fixed(FINGERPRINT_BYTES, CHUNK.size),
    "chunk_at": _fixed(PAIR.size, U32.size + FINGERPRINT_BYTES),
    "frees": _fixed(PAIR.size, U64.size),
    "damaged": _fixed(PAIR.size, U64.size),
    "units": _fixed(U64.size, UNIT.size),
    "queue": _fixed(QUEUED.size, 0),
    "history": _Lengths(U64.size, U64.size, EVICTED.size, EVICTED.size + (1 << 17)),
    "evicted": _fixed(FINGERPRINT_BYTES, U64.size),
}
_HASHED: Final = ("chunks", "evicted")  # their keys begin with any byte


def check(txn: Txn, progress: Progress) -> list[Problem]:
    """Look at every row by itself."""
    found: list[Problem] = []
    total = sum(txn.rows(table) for table in TABLES)
    done = 0
    for table, lengths in _LENGTHS.items():
        found += _check_table(txn, table, lengths)
        done += txn.rows(table)
        progress("rows", done, total)
    return found


def _check_table(txn: Txn, table: str, lengths: _Lengths) -> list[Problem]:
    found: list[Problem] = []
    key_min, key_max, value_min, value_max = lengths
    before = b""
    in_order = True
    for key, value in txn.scan(table, b""):
        # A damaged inner page hides rows that a scan still meets.
        in_order = in_order and before < key and txn.get(table, key) == value
        before = key
        is_number = table in _HASHED or key < _NUMBER_MAX
        is_fit = key_min <= len(key) <= key_max and value_min <= len(value) <= value_max
        if not (is_fit and is_number):
            detail = f"{table}: a row of {len(key)} and {len(value)} bytes: {key[:40].hex()}"
            found.append(Problem("row", detail, fix=_deletion(table, key)))
    if not in_order:
        detail = f"{table}: rows are not in order, some cannot be found"
        found.append(Problem("order", detail, fix=partial(_rewrite, table)))
    return found


class _deletion:  # noqa: N801 - used as a function; a closure for each row takes five times as much
    __slots__ = ("_key", "_table")

    def __init__(self, table: str, key: bytes) -> None:
        self._table = table
        self._key = key

    def __call__(self, txn: Txn) -> None:
        txn.delete(self._table, self._key)


deletion = _deletion


def _rewrite(table: str, txn: Txn) -> None:
    offline.rewrite(txn, table)


def sound(txn: Txn, table: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of a table of fixed lengths, but for those of other lengths."""
    lengths = _LENGTHS[table]
    for key, value in txn.scan(table, b""):
        if (len(key), len(value)) == (lengths.key_min, lengths.value_min):
            yield key, value


INODE_COLUMNS: Final = np.dtype(
    [
        ("ino", ">u8"), ("mode", ">u4"), ("uid", ">u4"), ("gid", ">u4"), ("nlink", ">u4"),
        ("rdev", ">u8"), ("size", ">u8"), ("mapped", ">u8"), ("times", ">i8", 3), ("parent", ">u8"),
    ]
)  # fmt: skip
EXTENT_COLUMNS: Final = np.dtype(
    [("ino", ">u8"), ("offset", ">u8"), ("segment", ">u8"), ("at", ">u8"), ("length", ">u8")]
)
SEGMENT_COLUMNS: Final = np.dtype(
    [("segment", ">u8"), ("state", "u1"), ("size", ">u8"), ("allocated", ">u8")]
)
SHARE_COLUMNS: Final = np.dtype(
    [("segment", ">u8"), ("start", ">u8"), ("length", ">u8"), ("users", ">u4")]
)

assert INODE_COLUMNS.itemsize == U64.size + INODE.size, "the fields of core.format.Inode"


def columns(
    txn: Txn, table: str, layout: np.dtype[np.void], step: int = _STEP
) -> Iterator[NDArray[np.void]]:
    """Yield the rows of a table, key and value side by side, in arrays of up to `step` rows.

    Rows of a wrong length are left out.
    """
    lengths = _LENGTHS[table]
    parts: list[bytes] = []
    size = layout.itemsize
    for key, value in txn.scan(table, b""):
        if len(key) == lengths.key_min and len(value) >= lengths.value_min:
            parts += (key, value[: lengths.value_min])
            if len(parts) == 2 * step:
                yield np.frombuffer(b"".join(parts), layout)
                parts.clear()
    if parts:
        raw = b"".join(parts)
        assert len(raw) % size == 0, "lengths and layout agree"
        yield np.frombuffer(raw, layout)
