"""Who uses bytes alone and who shares them: one sweep over ranges of bytes and their users. Pure.

Users are nodes of a tree, such as folders: bytes belong to a node alone when all their users lie
below it. Nodes are numbered in preorder, so a subtree is a run of numbers, and the users of one
byte meet in the lowest common ancestor of the first and the last of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

Ints: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"
Matrix: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.int64]]"

_PAIRS_AT_ONCE: Final = 2_000_000  # of a range and a user: bounds the memory of a sweep
_PARTNERS_MAX: Final = 64  # of bytes that more nodes share, only so many are paired


class Tree(NamedTuple):
    """Nodes in preorder. Node 0 is the root, and stands for every user that is no other node."""

    parent: Ints
    depth: Ints
    last: Ints  # the last node of the subtree

    @classmethod
    def flat(cls, count: int) -> Tree:
        """Return a tree of `count` nodes right below the root."""
        depth = np.ones(count + 1, np.int64)
        last = np.arange(count + 1)
        depth[0], last[0] = 0, count
        return cls(np.zeros(count + 1, np.int64), depth, last)

    @classmethod
    def of_parents(cls, parents: list[int]) -> Tree:
        """Return the tree of nodes in preorder, each with its parent; that of the root is unused."""
        depth, last = [0] * len(parents), list(range(len(parents)))
        for node in range(1, len(parents)):
            depth[node] = depth[parents[node]] + 1
        for node in range(len(parents) - 1, 0, -1):
            last[parents[node]] = max(last[parents[node]], last[node])
        return cls(*(np.array(values, np.int64) for values in (parents, depth, last)))

    def meet(self, one: Ints, other: Ints) -> Ints:
        """Return the lowest common ancestors, pair by pair."""
        one, other = one.copy(), other.copy()
        while (apart := np.flatnonzero(one != other)).size:
            left, right = one[apart], other[apart]
            left_up = self.depth[left] >= self.depth[right]
            right_up = self.depth[right] >= self.depth[left]
            one[apart] = np.where(left_up, self.parent[left], left)
            other[apart] = np.where(right_up, self.parent[right], right)
        return one

    def below(self, values: Ints) -> Ints:
        """Return for each node the sum of `values` over its subtree."""
        sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(values)))
        return sums[self.last + 1] - sums[:-1]


class Pairs(NamedTuple):
    """Bytes that two nodes both use: each pair once, `one < other`, node 0 left out."""

    one: Ints
    other: Ints
    size_bytes: Ints


class Sums(NamedTuple):
    """By node."""

    distinct: Ints  # bytes that the node uses, each once
    exclusive: Ints  # those that nobody else uses


class _Totals:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._distinct = np.zeros(len(tree.parent), np.int64)
        self._exclusive = np.zeros(len(tree.parent), np.int64)

    def add(self, keys: Ints, nodes: Ints, weights: Ints) -> None:
        """Count the users `nodes` of the things `keys`; rows are sorted and there is none twice."""
        if not keys.size:
            return
        # Along the sorted users of one thing, neighbours have what is above both in common.
        np.add.at(self._distinct, nodes, weights)
        same = keys[1:] == keys[:-1]
        common = self._tree.meet(nodes[1:][same], nodes[:-1][same])
        np.subtract.at(self._distinct, common, weights[1:][same])
        first = np.flatnonzero(np.concatenate(([True], ~same)))
        last = np.concatenate((first[1:] - 1, [keys.size - 1]))
        np.add.at(self._exclusive, self._tree.meet(nodes[first], nodes[last]), weights[first])

    def sums(self) -> Sums:
        return Sums(self._tree.below(self._distinct), self._tree.below(self._exclusive))


def total(keys: Ints, nodes: Ints, weights: Ints, tree: Tree) -> Sums:
    """Return the sums of things that are used whole, such as files; any order, repetitions too."""
    order = np.lexsort((nodes, keys))
    keys, nodes, weights = keys[order], nodes[order], weights[order]
    keep = np.ones(keys.size, bool)
    keep[1:] = (keys[1:] != keys[:-1]) | (nodes[1:] != nodes[:-1])
    totals = _Totals(tree)
    totals.add(keys[keep], nodes[keep], weights[keep])
    return totals.sums()


def sweep(
    starts: Ints, stops: Ints, nodes: Ints, tree: Tree, *, paired: bool = True
) -> tuple[Sums, Pairs]:
    """Return the sums of the ranges `starts..stops` (none empty), each used by a node; any order."""
    totals, pairing = _Totals(tree), _Pairing(nodes, stops - starts, len(tree.parent))
    for at, node, length in _cells(starts, stops, nodes, len(tree.parent)):
        totals.add(at, node, length)
        if paired:
            pairing.add(at, node, length)
    return totals.sums(), pairing.pairs()


def _cells(starts: Ints, stops: Ints, nodes: Ints, count: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Cut the ranges at all their ends: yield cells, their users, and lengths, sorted."""
    edges = distinct(np.concatenate((starts, stops)))
    if edges.size < 2:  # noqa: PLR2004 - no range
        return
    lengths = np.diff(edges)
    first, last = np.searchsorted(edges, starts), np.searchsorted(edges, stops)
    opened = np.bincount(first, minlength=edges.size)
    users = np.cumsum(opened - np.bincount(last, minlength=edges.size))
    for low, high in _windows(np.cumsum(users[:-1])):
        inside = (first < high) & (last > low)
        begin, end = np.maximum(first[inside], low), np.minimum(last[inside], high)
        counts = end - begin
        before = np.cumsum(counts) - counts
        at = np.repeat(begin - before, counts) + np.arange(counts.sum())
        at, node = np.divmod(distinct(at * count + np.repeat(nodes[inside], counts)), count)
        yield at, node, lengths[at]


def distinct(values: Ints) -> Ints:
    """Return the values sorted, each once.

    As numpy.unique, which since numpy 2.3 hashes: measured 100 times slower for two million, and
    it keeps the interpreter from others meanwhile.
    """
    ordered = np.sort(values)
    keep = np.ones(ordered.size, bool)
    keep[1:] = ordered[1:] != ordered[:-1]
    return ordered[keep]


def _windows(running: Ints) -> Iterator[tuple[int, int]]:
    low, done = 0, 0
    while low < running.size:
        high = int(np.searchsorted(running, done + _PAIRS_AT_ONCE, "right"))
        high = max(high, low + 1)
        yield low, high
        low, done = high, int(running[high - 1])


class _Pairing:
    """Sums bytes by the set of nodes that use them, then by pairs of nodes."""

    def __init__(self, nodes: Ints, sizes: Ints, count: int) -> None:
        self._count = count
        # A random number a node: the sum of those of a set stands for the set.
        self._marks = np.random.default_rng(0).integers(1, 1 << 62, count, np.int64)
        self._weight = np.zeros(count, np.int64)
        np.add.at(self._weight, nodes, sizes)
        self._codes: list[Ints] = []
        self._sizes: list[Ints] = []

    def add(self, at: Ints, nodes: Ints, lengths: Ints) -> None:
        named = nodes > 0
        at, nodes, lengths = at[named], nodes[named], lengths[named]
        if not at.size:
            return
        first = np.flatnonzero(np.concatenate(([True], at[1:] != at[:-1])))
        users = np.diff(np.concatenate((first, [at.size])))
        with np.errstate(over="ignore"):
            marks = np.add.reduceat(self._marks[nodes], first)
        shared = users > 1
        first, users, marks = first[shared], users[shared], marks[shared]
        _, example, which = np.unique(marks, return_index=True, return_inverse=True)
        sizes = np.zeros(example.size, np.int64)
        np.add.at(sizes, which, lengths[first])
        for number in np.unique(users[example]):
            chosen = users[example] == number
            sets = nodes[first[example[chosen]][:, None] + np.arange(number)]
            self._add_sets(sets, sizes[chosen])

    def _add_sets(self, sets: Matrix, sizes: Ints) -> None:
        """Add sets of nodes, a row each, and the bytes that each set shares."""
        if sets.shape[1] > _PARTNERS_MAX:
            order = np.argsort(-self._weight[sets], axis=1, kind="stable")[:, :_PARTNERS_MAX]
            sets = np.sort(np.take_along_axis(sets, order, axis=1), axis=1)
        one, other = np.triu_indices(sets.shape[1], 1)
        rows = max(1, _PAIRS_AT_ONCE // one.size)
        for low in range(0, len(sets), rows):
            part = sets[low : low + rows]
            codes = part[:, one] * self._count + part[:, other]
            repeated = np.repeat(sizes[low : low + rows], one.size)
            codes, total_bytes = _summed(codes.ravel(), repeated)
            self._codes.append(codes)
            self._sizes.append(total_bytes)

    def pairs(self) -> Pairs:
        if not self._codes:
            return Pairs(*(np.zeros(0, np.int64) for _ in range(3)))
        codes, sizes = _summed(np.concatenate(self._codes), np.concatenate(self._sizes))
        one, other = np.divmod(codes, self._count)
        return Pairs(one, other, sizes)


def _summed(codes: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    single, which = np.unique(codes, return_inverse=True)
    sums = np.zeros(single.size, np.int64)
    np.add.at(sums, which, sizes)
    return single, sums
