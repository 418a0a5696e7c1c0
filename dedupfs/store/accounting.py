"""Space by unit and by folder: what each uses, has alone, and shares with whom. Reads, changes nothing.

No table says who uses a byte, only how many do, so this walks names, inodes and extents of a
snapshot, and sorts them with numpy. It may run in a worker thread: while it reads it pauses every
few thousand rows, and numpy leaves the interpreter to others while it sorts.
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
from dedupfs.core.sharing import Tree, distinct, sweep, total
from dedupfs.core.types import PAGE_BYTES, ROOT_INO, Ino
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


class Account(NamedTuple):
    """What one entry holds; bytes."""

    place: Place
    ino: Ino
    node: int
    depth: int  # below other entries that are accounted for
    is_folder: bool
    files: int
    logical_bytes: int
    exclusive_bytes: int  # used by nobody else
    shared_bytes: int  # used by others, too
    freed_bytes: int  # of whole pages that nobody else uses: what its removal gives back


class Accounts:
    """The accounts of some entries, in preorder; the first node stands for everything else."""

    def __init__(self, tables: Tables, links: Ints) -> None:
        """`links`: the entries. Takes a second or two for a million extents."""
        owner, self._link, tree = _owners(tables, links)
        self._tables = tables
        self._depth = tree.depth
        names = np.flatnonzero(~tables.is_folder)
        inos, nodes = tables.link_ino[names], owner[names]
        self._files = total(inos, nodes, np.ones(names.size, np.int64), tree).distinct
        sizes = _sizes(tables, inos)
        self._logical = total(inos, nodes, sizes, tree).distinct
        extent, user = _users(tables, inos, nodes)
        start, stop = _on_one_axis(tables)
        sums, self.pairs = sweep(start[extent], stop[extent], user, tree)
        pages = sweep(
            start[extent] // PAGE_BYTES, -(-stop[extent] // PAGE_BYTES), user, tree, paired=False
        )[0]
        self._exclusive, self._distinct = sums.exclusive, sums.distinct
        self._freed = pages.exclusive * PAGE_BYTES

    def __len__(self) -> int:
        """How many entries there are."""
        return self._link.size - 1

    @property
    def stored_bytes(self) -> int:
        """All bytes that any file uses, each once."""
        return int(self._distinct[0])

    def __getitem__(self, node: int) -> Account:
        """Return the account of a node, from 1 to `len`."""
        link = int(self._link[node])
        tables = self._tables
        exclusive = int(self._exclusive[node])
        return Account(
            place=Place(int(tables.link_parent[link]), int(tables.link_cookie[link])),
            ino=Ino(int(tables.link_ino[link])),
            node=node,
            depth=int(self._depth[node]) - 1,
            is_folder=bool(tables.is_folder[link]),
            files=int(self._files[node]),
            logical_bytes=int(self._logical[node]),
            exclusive_bytes=exclusive,
            shared_bytes=int(self._distinct[node]) - exclusive,
            freed_bytes=int(self._freed[node]),
        )

    def largest(self) -> Ints:
        """Return all nodes, those with the most logical bytes first."""
        return 1 + np.argsort(-self._logical[1:], kind="stable")

    def partners(self, node: int, limit: int) -> list[tuple[int, int]]:
        """Return the nodes that share most with `node`, and how many bytes.

        Bytes that more than 64 nodes share are counted for the 64 largest of them only.
        """
        one, other, sizes = self.pairs
        found = np.concatenate((np.flatnonzero(one == node), np.flatnonzero(other == node)))
        best = found[np.argsort(-sizes[found], kind="stable")[:limit]]
        return [(int(one[at] + other[at] - node), int(sizes[at])) for at in best]


def name_of(txn: Txn, place: Place) -> bytes | None:
    """Return the path of a place from the root, without a leading slash; None: it is gone."""
    if place.parent == 0:
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


def sharers(tables: Tables, ino: Ino, limit: int) -> tuple[list[tuple[Place | None, int]], int]:
    """Return the files that share most with `ino`, how many bytes, and how many files do at all.

    None stands for an open file without a name.
    """
    own = tables.extent_ino == ino
    start, stop = _on_one_axis(tables)
    low, high = _union(start[own], stop[own])
    # How many of the file's bytes lie before a point, at each end of an extent.
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(high - low)))

    def covered(points: Ints) -> Ints:
        at = np.searchsorted(low, points, "right")
        reached = np.append(high, 0)[at - 1]
        return before[at] - np.where(at > 0, np.maximum(reached - points, 0), 0)

    common = covered(stop) - covered(start)
    others = np.flatnonzero((common > 0) & ~own)
    files, user = np.unique(tables.extent_ino[others], return_inverse=True)
    sizes = np.zeros(files.size, np.int64)
    np.add.at(sizes, user, common[others])
    best = np.argsort(-sizes, kind="stable")
    shown = [(_place(tables, int(files[at])), int(sizes[at])) for at in best[:limit]]
    return shown, files.size


def _place(tables: Tables, ino: int) -> Place | None:
    links = np.flatnonzero(tables.link_ino == ino)
    if not links.size:
        return None
    return Place(int(tables.link_parent[links[0]]), int(tables.link_cookie[links[0]]))


def _union(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """Return ranges as disjoint, sorted ones."""
    order = np.argsort(start)
    start, stop = start[order], np.maximum.accumulate(stop[order])
    begins = np.ones(start.size, bool)
    begins[1:] = start[1:] > stop[:-1]
    first = np.flatnonzero(begins)
    return start[first], stop[np.append(first[1:], start.size) - 1] if first.size else stop


def _owners(tables: Tables, links: Ints) -> tuple[Ints, Ints, Tree]:
    """Return the node of each link, the link of each node, and the tree of nodes.

    A link's node is the nearest entry of `links` at or above it.
    """
    folders = distinct(np.concatenate((tables.link_parent, tables.link_ino[tables.is_folder])))
    assert folders[0] == 0, "the parent of the root, and of who has none"
    named = np.flatnonzero(tables.is_folder)
    at = np.searchsorted(folders, tables.link_ino[named])
    up = np.zeros(folders.size, np.int64)
    up[at] = np.searchsorted(folders, tables.link_parent[named])
    nearest = np.full(folders.size, -1)  # a link of `links`, or -1
    chosen = np.zeros(tables.link_ino.size, bool)
    chosen[links] = True
    own = chosen[named]
    nearest[at[own]] = named[own]
    up[at[own]] = at[own]
    while not np.array_equal(further := up[up], up):
        up = further
    above = nearest[up][np.searchsorted(folders, tables.link_parent)]
    order, tree = _in_preorder(links, above[links])
    node = np.zeros(tables.link_ino.size + 1, np.int64)  # one more for -1
    node[order] = np.arange(1, order.size + 1)
    owner = np.where(chosen, node[:-1], node[above])
    return owner, np.concatenate((np.array([-1]), order)), tree


def _in_preorder(links: Ints, above: Ints) -> tuple[Ints, Tree]:
    """Return `links` in preorder, and their tree; `above` has for each the link above, or -1."""
    if not (above >= 0).any():
        return links, Tree.flat(links.size)
    children: dict[int, list[int]] = {}
    for link, parent in zip(links.tolist(), above.tolist(), strict=True):
        children.setdefault(parent, []).append(link)
    order: list[int] = []
    parents = [0]
    left = [(link, 0) for link in reversed(children[-1])]
    while left:
        link, parent = left.pop()
        order.append(link)
        parents.append(parent)
        left += [(child, len(order)) for child in reversed(children.get(link, []))]
    return np.array(order, np.int64), Tree.of_parents(parents)


def _sizes(tables: Tables, inos: Ints) -> Ints:
    """Return the mapped bytes of each inode."""
    files, which = np.unique(tables.extent_ino, return_inverse=True)
    sums = np.zeros(files.size + 1, np.int64)
    np.add.at(sums, which, tables.stop - tables.start)
    at = np.searchsorted(files, inos)
    at[at == files.size] = -1
    return np.where(np.append(files, 0)[at] == inos, sums[at], 0)


def _users(tables: Tables, inos: Ints, nodes: Ints) -> tuple[Ints, Ints]:
    """Return extents and their users: an extent as often as its file has names, at least once."""
    order = np.argsort(inos, kind="stable")
    inos, nodes = inos[order], nodes[order]
    first = np.searchsorted(inos, tables.extent_ino, "left")
    counts = np.searchsorted(inos, tables.extent_ino, "right") - first
    nameless = counts == 0
    counts[nameless] = 1
    first[nameless] = nodes.size
    extent = np.repeat(np.arange(counts.size), counts)
    before = np.cumsum(counts) - counts
    at = np.repeat(first - before, counts) + np.arange(extent.size)
    return extent, np.append(nodes, 0)[at]


def _on_one_axis(tables: Tables) -> tuple[Ints, Ints]:
    """Return the ranges of all extents with the segments laid one behind the other."""
    segments, which = np.unique(tables.segment, return_inverse=True)
    ends = np.zeros(segments.size, np.int64)
    np.maximum.at(ends, which, tables.stop)
    ends = -(-ends // PAGE_BYTES) * PAGE_BYTES
    base = (np.cumsum(ends) - ends)[which]
    return base + tables.start, base + tables.stop
