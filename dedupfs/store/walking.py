"""Names and extents of a snapshot as columns of numbers, and places: names that stay findable.

A walk may run in a worker thread; it pauses every few thousand rows, so that others may work.
"""

from __future__ import annotations

import itertools
import select
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dedupfs.core.errors import DedupfsError
from dedupfs.core.format import EXTENT, PAIR, U32, U64, pair_key, unpack_cookie_entry
from dedupfs.core.sharing import distinct
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import namespace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeAlias

    from dedupfs.core.sharing import Ints, Matrix
    from dedupfs.store.txn import Txn

    Flags: TypeAlias = np.ndarray[tuple[int], np.dtype[np.bool_]]

_ROWS_AT_ONCE: Final = 2000  # about a millisecond of the interpreter
_PAUSE_S: Final = 0.002


class Stopped(DedupfsError):
    """Somebody asked it to end early."""


class Walk:
    """How far a walk is; `stop` ends it, from any thread."""

    def __init__(self, *, pause_s: float = _PAUSE_S) -> None:
        self.done = 0
        self.total = 0
        self._pause_s = pause_s
        self._stopped = False

    def stop(self) -> None:
        """Let the walk raise Stopped soon."""
        self._stopped = True

    def batches(self, txn: Txn, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
        """Yield a table's rows in batches, with a pause between two. Raises Stopped."""
        rows = txn.scan(table, b"")
        while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            yield batch
            if self._stopped:
                raise Stopped("stopped")
            self.done += len(batch)
            if self._pause_s:
                select.select((), (), (), self._pause_s)


@dataclass(frozen=True, slots=True)
class Tables:
    """Names and extents as columns. A link is a name: an inode in a folder at a cookie.

    The root has no name: its link has parent and cookie 0.
    """

    link_ino: Ints
    link_cookie: Ints
    link_parent: Ints
    is_folder: Flags  # by link
    extent_ino: Ints
    segment: Ints
    start: Ints  # in the segment
    stop: Ints

    @classmethod
    def read(cls, txn: Txn, walk: Walk) -> Tables:
        """Read the tables of a snapshot. Raises Stopped."""
        walk.total = sum(txn.rows(table) for table in ("parents", "inodes", "extents"))
        links = _numbers(walk.batches(txn, "parents"), PAIR.size + U64.size)
        links = np.concatenate((np.array([[ROOT_INO, 0, 0]]), links))
        folders = _folders(walk.batches(txn, "inodes"))
        extents = _numbers(walk.batches(txn, "extents"), PAIR.size + EXTENT.size)
        return cls(
            link_ino=links[:, 0],
            link_cookie=links[:, 1],
            link_parent=links[:, 2],
            is_folder=np.isin(links[:, 0], folders),
            extent_ino=extents[:, 0],
            segment=extents[:, 2],
            start=extents[:, 3],
            stop=extents[:, 3] + extents[:, 4],
        )


def _numbers(batches: Iterator[list[tuple[bytes, bytes]]], width: int) -> Matrix:
    """Return rows of u64 keys and values, `width` bytes together, as a matrix."""
    parts = [b"".join(itertools.chain.from_iterable(batch)) for batch in batches]
    return np.frombuffer(b"".join(parts), ">u8").reshape(-1, width // U64.size).astype(np.int64)


def _folders(batches: Iterator[list[tuple[bytes, bytes]]]) -> Ints:
    found = [
        U64.unpack(key)[0]
        for batch in batches
        for key, value in batch
        if stat.S_ISDIR(U32.unpack_from(value)[0])
    ]
    return np.array(found, np.int64)


class Place(NamedTuple):
    """A name below the root: its folder and its cookie there; 0 and 0 are the root."""

    parent: int
    cookie: int


NOWHERE: Final = Place(-1, -1)


def units(tables: Tables, depth: int) -> Ints:
    """Return the links of the units: entries `depth` below the root, and files above that."""
    parents, found = np.array([ROOT_INO], np.int64), [np.zeros(0, np.int64)]
    for level in range(1, depth + 1):
        links = np.flatnonzero(np.isin(tables.link_parent, parents))
        goes_on = tables.is_folder[links] & (level < depth)
        found.append(links[~goes_on])
        parents = tables.link_ino[links[goes_on]]
    return np.concatenate(found)


def below(tables: Tables, places: Sequence[Place], depth: int) -> Ints:
    """Return the links of `places` and of all entries up to `depth` below them."""
    of_place = tables.link_parent, tables.link_cookie
    wanted = [
        np.flatnonzero((of_place[0] == at) & (of_place[1] == cookie)) for at, cookie in places
    ]
    level = distinct(np.concatenate([np.zeros(0, np.int64), *wanted]))
    found = [level]
    for _ in range(depth):
        parents = tables.link_ino[level[tables.is_folder[level]]]
        level = np.flatnonzero(np.isin(tables.link_parent, parents))
        found.append(level)
    return distinct(np.concatenate(found))


def name_of(txn: Txn, place: Place) -> bytes | None:
    """Return the path of a place from the root, without a leading slash; None: it is gone."""
    if place.parent <= 0:  # the root, or no place
        return b""
    raw = txn.get("cookies", pair_key(*place))
    folder = namespace.path_of(txn, Ino(place.parent))
    if raw is None or folder is None:
        return None
    name = unpack_cookie_entry(raw)[1]
    return folder + b"/" + name if folder else name


def find_place(txn: Txn, path: bytes) -> Place | None:
    """Return the place of a path from the root; symlinks are not followed. None: no such name."""
    ino, place = ROOT_INO, Place(0, 0)
    for name in filter(None, path.split(b"/")):
        entry = namespace.find_entry(txn, ino, name)
        if entry is None:
            return None
        ino, place = entry.ino, Place(ino, entry.cookie)
    return place


def inode_at(txn: Txn, place: Place) -> Ino:
    """Return the inode of a place that was found just now."""
    raw = txn.get("cookies", pair_key(*place))
    return ROOT_INO if raw is None else unpack_cookie_entry(raw)[0]
