"""If these fail, bytes still in use are given back to the disk, or never are."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.core.intervals import Counted, IntervalSet, add_count, drop_count, gaps, tally

RANGES = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda r: (r[0], r[0] + r[1]))


def covered(ranges: list[tuple[int, int]]) -> Counter[int]:
    return Counter(i for start, stop in ranges for i in range(start, stop))


def expand(rows: list[Counted]) -> Counter[int]:
    return Counter({i: row.users for row in rows for i in range(row.start, row.stop)})


def is_canonical(rows: list[Counted]) -> bool:
    pairs = itertools.pairwise(rows)
    return all(a.stop < b.start or (a.stop == b.start and a.users != b.users) for a, b in pairs)


@given(st.lists(RANGES))
def test_interval_set_is_the_set_of_its_integers(ranges: list[tuple[int, int]]) -> None:
    found = IntervalSet(ranges)
    integers = set(covered(ranges))
    assert set(covered(list(found))) == integers
    assert found.stop == max(integers, default=-1) + 1
    for position in range(85):
        assert found.overlaps(position, position + 3) == bool(
            integers & set(range(position, position + 3))
        )
        start, stop = found.run_around(position)
        assert start <= position <= stop
        assert set(range(start, stop)) <= integers
        assert stop not in integers
        assert start - 1 not in integers or start == position


@given(st.lists(RANGES, max_size=12))
def test_counting_up_and_down_matches_counting_each_integer(ranges: list[tuple[int, int]]) -> None:
    rows: list[Counted] = []
    for start, stop in ranges:
        rows = add_count(rows, start, stop)
        assert is_canonical(rows)
    assert rows == tally(ranges)
    left = covered(ranges)
    assert expand(rows) == left
    for start, stop in ranges:
        rows, freed = drop_count(rows, start, stop)
        left.subtract(range(start, stop))
        assert is_canonical(rows)
        assert set(covered(freed)) == {i for i in range(start, stop) if left[i] == 0}
        assert expand(rows) == +left
    assert rows == []


def test_dropping_what_was_never_counted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"5 bytes of 0\.\.10"):
        drop_count([Counted(0, 5, 1)], 0, 10)


@given(st.lists(RANGES), RANGES)
def test_gaps_are_what_is_not_used(used: list[tuple[int, int]], whole: tuple[int, int]) -> None:
    found = gaps(IntervalSet(used), *whole)
    assert set(covered(found)) == set(range(*whole)) - set(covered(used))
