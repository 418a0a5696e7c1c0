"""Sweeps over ranges and their users, against counting each byte by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.core import sharing
from dedupfs.core.sharing import Tree

if TYPE_CHECKING:
    import pytest

RANGES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(0, 5)), min_size=0, max_size=20
)


def columns(rows: list[tuple[int, int, int]]) -> list[np.ndarray]:
    table = np.array(rows, np.int64).reshape(-1, 3)
    return [table[:, 0], table[:, 0] + table[:, 1], table[:, 2]]


def above(parents: list[int], node: int) -> set[int]:
    found = {node}
    while node:
        node = parents[node]
        found.add(node)
    return found


@given(rows=RANGES, picks=st.lists(st.integers(0, 9), min_size=5, max_size=5))
def test_the_sums_of_a_tree_are_those_of_counting(
    rows: list[tuple[int, int, int]], picks: list[int]
) -> None:
    parents = [0]
    for node, pick in enumerate(picks, 1):  # in preorder: on the way down to the node before
        way = sorted(above(parents, node - 1))
        parents.append(way[pick % len(way)])
    users = [{node for start, length, node in rows if start <= at < start + length}
             for at in range(50)]  # fmt: skip
    reach = [[above(parents, node) for node in found] for found in users]
    sums, pairs = sharing.sweep(*columns(rows), Tree.of_parents(parents))
    for node in range(6):
        assert sums.distinct[node] == sum(any(node in way for way in ways) for ways in reach)
        assert sums.exclusive[node] == sum(
            bool(ways) and all(node in way for way in ways) for ways in reach
        )
    want = {
        (one, other): sum({one, other} <= found for found in users)
        for one in range(1, 6)
        for other in range(one + 1, 6)
    }
    got = {(int(one), int(other)): int(size) for one, other, size in zip(*pairs, strict=True)}
    assert got == {pair: size for pair, size in want.items() if size}


def test_small_windows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    start = generator.integers(0, 1000, 400)
    stop = start + generator.integers(1, 200, 400)
    nodes = generator.integers(0, 90, 400)
    whole = sharing.sweep(start, stop, nodes, Tree.flat(89))
    monkeypatch.setattr(sharing, "_PAIRS_AT_ONCE", 100)
    monkeypatch.setattr(sharing, "_PARTNERS_MAX", 1000)
    cut = sharing.sweep(start, stop, nodes, Tree.flat(89))
    for one, other in zip(whole[0], cut[0], strict=True):
        assert np.array_equal(one, other)
    assert cut[1].size_bytes.size >= whole[1].size_bytes.size


def test_bytes_that_very_many_share_are_paired_for_the_largest() -> None:
    nodes = np.arange(1, 101)
    start, stop = np.zeros(100, np.int64), np.full(100, 10)
    start, stop = np.append(start, 100), np.append(stop, 500)
    sums, pairs = sharing.sweep(start, stop, np.append(nodes, 99), Tree.flat(100))
    assert pairs.one.size == 64 * 63 // 2
    assert 99 in pairs.other, "the largest is one of them"
    assert sums.distinct[1] == 10
    assert sums.exclusive[99] == 400


def test_a_thing_used_twice_by_a_node_counts_once() -> None:
    tree = Tree.of_parents([0, 0, 1, 1, 0])
    keys, nodes = np.array([7, 7, 7, 8]), np.array([2, 3, 2, 4])
    sums = sharing.total(keys, nodes, np.array([5, 5, 5, 1]), tree)
    assert sums.distinct.tolist() == [6, 5, 5, 5, 1]
    assert sums.exclusive.tolist() == [6, 5, 0, 0, 1]


def test_nothing_is_nothing() -> None:
    empty = np.zeros(0, np.int64)
    sums, pairs = sharing.sweep(empty, empty, empty, Tree.flat(2))
    assert sums.distinct.tolist() == [0, 0, 0]
    assert pairs.one.size == 0
