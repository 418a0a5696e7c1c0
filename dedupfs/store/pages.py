"""Whether LMDB's file is sound enough to be opened. Reads its pages, never through LMDB.

LMDB trusts its pages: a flipped bit in one makes it read outside of its map, and the process dies of
a signal. So every start looks at the pages first. All of them are read in order and judged at
once with numpy; the trees are then followed over what was found. (*Measured*: 300 MB/s.)

The layout is that of LMDB 0.9 (mdb.c: MDB_page, MDB_node, MDB_db, MDB_meta) on a 64-bit
little-endian machine, without DUPSORT tables.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dedupfs.core.errors import Corrupt
from dedupfs.core.format import STORE_FILES
from dedupfs.store import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_PAGE_HEAD: Final = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_NODE: Final = struct.Struct("<HHHH")  # data size or child, low and high half, flags, key size
_DB: Final = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, pages of 3 kinds, entries, root
_META: Final = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, map, dbs, last, txn
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE, _DIRTY = 1, 2, 4, 8, 16
_BIG, _SUB_TABLE = 1, 2
_NONE: Final = (1 << 64) - 1
_FIRST: Final = 2  # the pages before are the meta pages
_DEPTH_MAX: Final = 30  # CURSOR_STACK of mdb.c is 32
_KEY_MAX_BYTES: Final = 511
_BATCH_BYTES: Final = 8 << 20
_SIZES: Final = (4096, 8192, 16384, 32768, 65536)

assert _PAGE_HEAD.size == 8 + 4 * 2, "PAGEHDRSZ of mdb.c"
assert _DB.size == 8 + 5 * 8, "MDB_db of mdb.c"


class Rotten(Corrupt):
    """The index can be read, and is not what was written."""


class _Tree(NamedTuple):
    name: str
    depth: int
    root: int


class _Batch(NamedTuple):
    """What the pages of one read hold; the children and big values of good pages, in order."""

    flags: NDArray[np.uint16]  # 0: not a page of a tree
    spans: NDArray[np.int64]  # pages of an overflow run
    child_counts: NDArray[np.int64]
    children: NDArray[np.int64]
    big_counts: NDArray[np.int64]
    bigs: NDArray[np.int64]  # rows of page number, bytes


def check_store(store: Path) -> None:
    """Raise Corrupt when the index of a store is gone or damaged. Raises OSError.

    Without an index a start would take all segments for leftovers.
    """
    index = store / STORE_FILES["index"] / "data.mdb"
    if not index.exists() or not index.stat().st_size:
        folder = store / STORE_FILES["segments"]
        if (store / STORE_FILES["backup"]).exists() or (folder.exists() and any(folder.iterdir())):
            raise Corrupt(f"index {index} is gone: `dedupfs fsck --rebuild {store}` makes it anew")
        return
    check(index)
    try:
        digest.check(index.parent)
    except Corrupt as error:
        raise Rotten(
            f"{error}: `dedupfs fsck --rebuild {store}` puts back its last copy, --repair mends it"
        ) from None


def check(path: Path) -> None:
    """Raise Corrupt when LMDB could not open the file `path`, or not safely.

    A file that is not there or empty is fine: LMDB makes it. Raises OSError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(fd).st_size
        if size:
            _Pages(fd, size).check()
    except Corrupt as error:
        raise Corrupt(f"index {path}: {error}; `dedupfs fsck --rebuild` makes it anew") from None
    finally:
        os.close(fd)


class _Pages:
    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        head = os.pread(fd, _PAGE_HEAD.size + _META.size, 0)
        self._page_bytes = _parse_meta(head)[0]
        second = os.pread(fd, len(head), self._page_bytes)
        _, self._trees, self._last, _ = max(
            (_parse_meta(head), _parse_meta(second)), key=lambda meta: meta[3]
        )
        # Pages that were taken and given back in one transaction may be behind the file's end.
        self._count = min(size // self._page_bytes, self._last + 1)

    def check(self) -> None:
        batches = list(self._batches())
        join = np.concatenate
        self._flags = join([batch.flags for batch in batches])
        self._spans = join([batch.spans for batch in batches])
        self._children = join([batch.children for batch in batches])
        self._bigs = join([batch.bigs for batch in batches])
        self._child_at = _offsets([batch.child_counts for batch in batches])
        self._big_at = _offsets([batch.big_counts for batch in batches])
        self._live = np.zeros(self._count, bool)
        free, main = self._trees
        tables = [tree for page in self._walk(main) for tree in self._tables(page)]
        for table in tables:
            self._walk(table)
        self._check_free(self._walk(free))

    def _batches(self) -> Iterator[_Batch]:
        step = _BATCH_BYTES // self._page_bytes
        for first in range(0, self._count, step):
            count = min(step, self._count - first)
            raw = _pread(self._fd, count * self._page_bytes, first * self._page_bytes)
            yield _judge(np.frombuffer(raw, np.uint8).reshape(count, self._page_bytes), first)

    def _walk(self, tree: _Tree) -> list[int]:
        """Mark the pages of a tree live; return its leaves."""
        if tree.root == _NONE:
            return []
        if not 0 < tree.depth <= _DEPTH_MAX:
            raise Corrupt(f"{tree.name}: a tree of depth {tree.depth}")
        level = np.array([tree.root if tree.root < _NONE >> 1 else -1], np.int64)
        for left in range(tree.depth - 1, -1, -1):
            self._take(tree, level, _BRANCH if left else _LEAF)
            if left:
                level = self._children[_ranges(self._child_at, level)]
        bigs = self._bigs[_ranges(self._big_at, level)]
        if len(bigs):
            self._take_big(tree, bigs)
        return [int(page) for page in level] if tree in self._trees else []

    def _take(self, tree: _Tree, pages: NDArray[np.int64], kind: int) -> None:
        if pages.min() < _FIRST or pages.max() >= self._count:
            raise Corrupt(f"{tree.name}: a page outside of the file's {self._count}")
        wrong = pages[self._flags[pages] != kind]
        if len(wrong):
            raise Corrupt(f"{tree.name}: page {wrong[0]} is damaged")
        self._mark(tree, pages)

    def _mark(self, tree: _Tree, pages: NDArray[np.int64]) -> None:
        if self._live[pages].any() or len(np.unique(pages)) != len(pages):
            raise Corrupt(f"{tree.name}: a page is used twice")
        self._live[pages] = True

    def _take_big(self, tree: _Tree, bigs: NDArray[np.int64]) -> None:
        """Mark the overflow pages of big values live."""
        first = bigs[:, 0]
        self._take(tree, first, _OVERFLOW)
        spans = self._spans[first]
        if (spans * self._page_bytes < bigs[:, 1] + _PAGE_HEAD.size).any():
            raise Corrupt(f"{tree.name}: a value is longer than its pages")
        if (first + spans > self._count).any():
            raise Corrupt(f"{tree.name}: a value outside of the file")
        rest = [np.arange(at + 1, at + span) for at, span in zip(first, spans, strict=True)]
        self._mark(tree, np.concatenate(rest))

    def _nodes(self, page: int) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield flags, key and value of the nodes of a leaf that `_judge` found good."""
        raw = _pread(self._fd, self._page_bytes, page * self._page_bytes)
        lower = _PAGE_HEAD.unpack_from(raw)[3]
        for at in struct.unpack_from(f"<{(lower - _PAGE_HEAD.size) // 2}H", raw, _PAGE_HEAD.size):
            low, high, flags, key_size = _NODE.unpack_from(raw, at)
            value_at = at + _NODE.size + key_size
            size = low | high << 16
            value = raw[value_at : value_at + (8 if flags & _BIG else size)]
            if flags & _BIG:
                where = int.from_bytes(value, "little") * self._page_bytes
                value = _pread(self._fd, size, where + _PAGE_HEAD.size)
            yield flags, raw[at + _NODE.size : value_at], value

    def _tables(self, page: int) -> Iterator[_Tree]:
        for flags, key, value in self._nodes(page):
            name = key.decode("ascii", "replace")
            if flags != _SUB_TABLE or len(value) != _DB.size:
                raise Corrupt(f"table {name!r}: not a table")
            yield _tree(name, value)

    def _check_free(self, leaves: list[int]) -> None:
        """Check the free list: a page of it that is in use would be overwritten by the next operation."""
        for page in leaves:
            for _flags, key, value in self._nodes(page):
                if len(key) != _U64_BYTES or len(value) < _U64_BYTES or len(value) % _U64_BYTES:
                    raise Corrupt("free list: a row of another length")
                numbers = np.frombuffer(value, "<u8")
                free = numbers[1 : 1 + int(min(numbers[0], len(numbers)))].astype(np.int64)
                if int(numbers[0]) != len(numbers) - 1 and int(numbers[0]) != len(free):
                    raise Corrupt("free list: a row of another length")
                self._check_free_pages(free)

    def _check_free_pages(self, free: NDArray[np.int64]) -> None:
        if not len(free):
            return
        if free.min() < _FIRST or free.max() > self._last or (np.diff(free) >= 0).any():
            raise Corrupt("free list: not a list of pages")
        inside = free[free < self._count]
        if self._live[inside].any():
            raise Corrupt("free list: a page in use is listed")
        self._live[inside] = True


_U64_BYTES: Final = 8


def _parse_meta(raw: bytes) -> tuple[int, tuple[_Tree, _Tree], int, int]:
    """Return the page size, the free and the main tree, the last page, the transaction."""
    if len(raw) < _PAGE_HEAD.size + _META.size:
        raise Corrupt("the file is cut off in its head")
    flags = _PAGE_HEAD.unpack_from(raw)[2]
    magic, version, _address, _map, free, main, last, txn = _META.unpack_from(raw, _PAGE_HEAD.size)
    if not flags & _META_PAGE or magic != _MAGIC or version != _VERSION:
        raise Corrupt("a meta page is damaged")
    page_bytes = _DB.unpack(free)[0]
    if page_bytes not in _SIZES or last >= _NONE >> 1:
        raise Corrupt("a meta page is damaged")
    return page_bytes, (_tree("free list", free), _tree("tables", main)), last, txn


def _tree(name: str, raw: bytes) -> _Tree:
    _pad, _flags, depth, _branches, _leaves, _overflows, _entries, root = _DB.unpack(raw)
    return _Tree(name, depth, root)


def _pread(fd: int, size: int, at: int) -> bytes:
    parts = []
    while size:
        part = os.pread(fd, size, at)
        if not part:
            raise Corrupt("the file is cut off")
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return b"".join(parts)


def _offsets(counts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])


def _ranges(offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indexes of all items of `rows`, where row r has offsets[r]..offsets[r + 1]."""
    starts, counts = offsets[rows], offsets[rows + 1] - offsets[rows]
    before = np.cumsum(counts) - counts
    out: NDArray[np.int64] = np.repeat(starts - before, counts) + np.arange(counts.sum())
    return out


def _judge(pages: NDArray[np.uint8], first: int) -> _Batch:
    """Judge each of `pages`, the first of them numbered `first`, by itself."""
    count, page_bytes = pages.shape
    words = pages.view("<u2")
    number = pages[:, :8].copy().view("<u8")[:, 0]
    flags = (words[:, 5] & ~np.uint16(_DIRTY)).astype(np.uint16)
    flags[number != np.arange(first, first + count, dtype=np.uint64)] = 0
    spans = pages[:, 12:16].copy().view("<u4")[:, 0].astype(np.int64)
    lower, upper = words[:, 6].astype(np.int64), words[:, 7].astype(np.int64)
    is_tree = (flags == _BRANCH) | (flags == _LEAF)
    fits = (lower > _PAGE_HEAD.size) & (lower % 2 == 0) & (lower <= upper) & (upper <= page_bytes)
    flags[is_tree & ~fits] = 0
    flags[(flags != _OVERFLOW) & ~is_tree] = 0
    flags[(flags == _OVERFLOW) & (spans < 1)] = 0
    rows = np.flatnonzero((flags == _BRANCH) | (flags == _LEAF))
    node_counts = (lower[rows] - _PAGE_HEAD.size) // 2
    return _judge_nodes(pages, flags, spans, np.repeat(rows, node_counts), _columns(node_counts))


def _columns(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, .. up to each of `counts`, one after the other."""
    before = np.cumsum(counts) - counts
    out: NDArray[np.int64] = np.arange(counts.sum()) - np.repeat(before, counts)
    return out


def _judge_nodes(
    pages: NDArray[np.uint8],
    flags: NDArray[np.uint16],
    spans: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> _Batch:
    """Judge the nodes of tree pages: node i is number `columns[i]` of page `rows[i]`."""
    words, page_bytes = pages.view("<u2"), pages.shape[1]
    at = words[rows, _PAGE_HEAD.size // 2 + columns].astype(np.int64)
    upper = words[rows, 7]
    is_in = (at >= upper) & (at + _NODE.size <= page_bytes) & (at % 2 == 0)
    word = np.where(is_in, at, _PAGE_HEAD.size) // 2
    low, high, node_flags, key_size = (words[rows, word + i].astype(np.int64) for i in range(4))
    is_leaf = flags[rows] == _LEAF
    is_big = is_leaf & (node_flags == _BIG)
    size = low | high << 16
    stop = at + _NODE.size + key_size + np.where(is_leaf, np.where(is_big, 8, size), 0)
    is_good = is_in & (stop <= page_bytes) & (key_size <= _KEY_MAX_BYTES)
    is_good &= ~is_leaf | (node_flags <= _SUB_TABLE)
    is_good &= (key_size > 0) | (~is_leaf & (columns == 0))  # a branch's first key is implied
    flags[rows[~is_good]] = 0
    is_child = (flags[rows] == _BRANCH) & is_good
    is_big &= (flags[rows] == _LEAF) & is_good
    value_at = (at + _NODE.size + key_size)[is_big]
    raw = pages[rows[is_big][:, None], value_at[:, None] + np.arange(8)]
    targets = raw.copy().view("<i8")[:, 0] if len(raw) else np.zeros(0, np.int64)
    return _Batch(
        flags=flags,
        spans=spans,
        child_counts=np.bincount(rows[is_child], minlength=len(flags)),
        children=(low | high << 16 | node_flags << 32)[is_child],
        big_counts=np.bincount(rows[is_big], minlength=len(flags)),
        bigs=np.stack([targets, size[is_big]], 1),
    )
