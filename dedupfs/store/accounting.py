"""Space by unit and by folder: what each uses, has alone, and shares with whom. Changes nothing.

No table says who uses a byte, only how many do: names, inodes and extents of a snapshot are walked
and sorted with numpy. It may run in a worker thread: numpy leaves the interpreter to others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dedupfs.core.sharing import Tree, distinct, sweep, total
from dedupfs.core.types import PAGE_BYTES, Ino
from dedupfs.store.walking import NOWHERE, Place

if TYPE_CHECKING:
    from dedupfs.core.sharing import Ints
    from dedupfs.store.walking import Tables


class Account(NamedTuple):
    """What one entry holds; bytes."""

    place: Place
    ino: Ino
    node: int
    depth: int  # in the tree of what is accounted for, from 1
    is_folder: bool
    files: int
    logical_bytes: int
    exclusive_bytes: int  # used by nobody else
    shared_bytes: int  # used by others, too
    freed_bytes: int  # of whole pages that nobody else uses: what its removal gives back


class Accounts:
    """The accounts of some entries, in preorder; node 0 stands for everything else."""

    def __init__(self, tables: Tables, links: Ints, *, together: bool = False) -> None:
        """`links`: the entries; `together` adds node 1, all of them as one.

        Takes about a second for a million extents.
        """
        owner, self._link, tree = _owners(tables, links, together=together)
        self._tables = tables
        self._depth = tree.depth
        names = np.flatnonzero(~tables.is_folder)
        inos, nodes = tables.link_ino[names], owner[names]
        self._files = total(inos, nodes, np.ones(names.size, np.int64), tree).distinct
        sizes = _sizes(tables, inos)
        self._logical = total(inos, nodes, sizes, tree).distinct
        extent, user = _users(tables, inos, nodes)
        start, stop = _on_one_axis(tables)
        sums, pairs = sweep(start[extent], stop[extent], user, tree)
        sharer = np.concatenate((pairs.one, pairs.other))
        order = np.lexsort((-np.tile(pairs.size_bytes, 2), sharer))
        self._sharer = sharer[order]
        self._partner = np.concatenate((pairs.other, pairs.one))[order]
        self._common = np.tile(pairs.size_bytes, 2)[order]
        pages = sweep(
            start[extent] // PAGE_BYTES, -(-stop[extent] // PAGE_BYTES), user, tree, paired=False
        )[0]
        self._exclusive, self._distinct = sums.exclusive, sums.distinct
        self._freed = pages.exclusive * PAGE_BYTES
        self._largest = 1 + np.argsort(-self._logical[1:], kind="stable")

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
            place=NOWHERE if link < 0 else _place(tables, link),
            ino=Ino(int(tables.link_ino[link])),
            node=node,
            depth=int(self._depth[node]),
            is_folder=bool(tables.is_folder[link]),
            files=int(self._files[node]),
            logical_bytes=int(self._logical[node]),
            exclusive_bytes=exclusive,
            shared_bytes=int(self._distinct[node]) - exclusive,
            freed_bytes=int(self._freed[node]),
        )

    def largest(self, start: int, stop: int) -> list[int]:
        """Return the nodes of these ranks by logical bytes, the most first."""
        return [int(node) for node in self._largest[start:stop]]

    def partners(self, node: int, limit: int) -> list[tuple[int, int]]:
        """Return the nodes that share most with `node`, and how many bytes.

        Bytes that more than 64 nodes share are counted for the 64 largest of them only.
        """
        low, high = np.searchsorted(self._sharer, (node, node + 1))
        high = min(int(high), int(low) + limit)
        return list(
            zip(self._partner[low:high].tolist(), self._common[low:high].tolist(), strict=True)
        )


class Sharers(NamedTuple):
    """Files that share bytes with one: those with the most, and how many there are in all."""

    files: list[tuple[Place | None, int]]  # None: open, without a name
    total_files: int


def sharers(tables: Tables, ino: Ino, limit: int) -> Sharers:
    """Return the files that share most with `ino`."""
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
    shown = [(_first_place(tables, int(files[at])), int(sizes[at])) for at in best[:limit]]
    return Sharers(shown, files.size)


def _place(tables: Tables, link: int) -> Place:
    return Place(int(tables.link_parent[link]), int(tables.link_cookie[link]))


def _first_place(tables: Tables, ino: int) -> Place | None:
    links = np.flatnonzero(tables.link_ino == ino)
    return _place(tables, int(links[0])) if links.size else None


def _union(start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """Return ranges as disjoint, sorted ones."""
    order = np.argsort(start)
    start, stop = start[order], np.maximum.accumulate(stop[order])
    begins = np.ones(start.size, bool)
    begins[1:] = start[1:] > stop[:-1]
    first = np.flatnonzero(begins)
    return start[first], stop[np.append(first[1:], start.size) - 1] if first.size else stop


def _owners(tables: Tables, links: Ints, *, together: bool) -> tuple[Ints, Ints, Tree]:
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
    order, tree = _in_preorder(links, above[links], together=together)
    node = np.zeros(tables.link_ino.size + 1, np.int64)
    node[order] = np.arange(1, order.size + 1)
    node[-1] = 0  # below none of them
    owner = np.where(chosen, node[:-1], node[above])
    return owner, np.concatenate((np.array([-1]), order)), tree


def _in_preorder(links: Ints, above: Ints, *, together: bool) -> tuple[Ints, Tree]:
    """Return `links` in preorder, and their tree; `above` has for each the link above, or -1.

    `together`: the first in order is -1, above all of them.
    """
    if not together and not (above >= 0).any():
        return links, Tree.flat(links.size)
    children: dict[int, list[int]] = {}
    for link, parent in zip(links.tolist(), above.tolist(), strict=True):
        children.setdefault(parent, []).append(link)
    order: list[int] = [-1] if together else []
    parents = [0] * (len(order) + 1)
    left = [(link, len(order)) for link in reversed(children.get(-1, []))]
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
