"""If these fail, eviction frees less than it says, or removes what frees nothing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from dedupfs.core.eviction import Considered, Footprint, Limits, Load, Need
from dedupfs.core.intervals import Counted, tally
from dedupfs.core.policies import MAIN, POLICIES, SMALL, Place
from dedupfs.core.types import Ino

if TYPE_CHECKING:
    from collections.abc import Callable

# A unit: files as (number, ranges of segment 1 or 2). The same number in two units is a hard link.
_RANGE = st.tuples(st.integers(1, 2), st.integers(0, 12), st.integers(1, 6)).map(
    lambda row: (row[0], row[1], row[1] + row[2])
)
_FILES = st.dictionaries(st.integers(100, 106), st.just(None), min_size=1, max_size=3)
_WORLD = st.tuples(
    st.lists(_FILES, min_size=1, max_size=6),
    st.fixed_dictionaries({number: st.lists(_RANGE, max_size=3) for number in range(100, 107)}),
    st.sets(st.integers(0, 5)),
)


class World:
    """Units by number, what their files use, and the bytes a set of units frees by brute force."""

    def __init__(
        self, units: list[dict[int, None]], ranges: dict[int, list[tuple[int, int, int]]]
    ) -> None:
        self.units = [set(unit) for unit in units]
        self.ranges = ranges
        self.files = set().union(*self.units)

    def names(self, file: int) -> int:
        return sum(file in unit for unit in self.units)

    def used(self, files: set[int]) -> set[tuple[int, int]]:
        return {
            (segment, at)
            for file in files
            for segment, start, stop in self.ranges[file]
            for at in range(start, stop)
        }

    def frees(self, gone: set[int]) -> set[tuple[int, int]]:
        left = {
            file
            for file in self.files
            if any(file in unit for n, unit in enumerate(self.units) if n not in gone)
        }
        return self.used(self.files) - self.used(left)

    def shares(self) -> Callable[[int, int, int], list[Counted]]:
        rows = {
            segment: tally(
                (start, stop)
                for file in self.files
                for one, start, stop in self.ranges[file]
                if one == segment
            )
            for segment in (1, 2)
        }
        return lambda segment, start, stop: [
            row for row in rows[segment] if row.start < stop and row.stop > start
        ]

    def footprint(self, unit: int) -> Footprint:
        return Footprint({Ino(f): (1, self.names(f), self.ranges[f]) for f in self.units[unit]})


@given(_WORLD)
def test_groups_free_what_they_say_and_all_that_can_be_freed(
    made: tuple[list[dict[int, None]], dict[int, list[tuple[int, int, int]]], set[int]],
) -> None:
    units, ranges, kept = made
    world = World(units, ranges)
    considered = Considered(world.shares())
    gone: set[int] = set()
    looked: set[int] = set()
    for number in range(len(units)):
        if number in kept:
            continue
        looked.add(number)
        group = considered.add(Ino(number), world.footprint(number))
        before = world.frees(gone)
        if not group.frees_bytes:
            assert world.frees(gone | {number}) == before, "passed over, and would free"
            continue
        assert not gone & set(group.units), "taken twice"
        gone |= set(group.units)
        # Never one that was not offered: whoever is protected is not.
        assert gone <= looked
        assert group.frees_bytes == len(world.frees(gone)) - len(before)
    assert world.frees(gone) == world.frees(looked), "more could be freed"


@given(_WORLD)
def test_nobody_goes_who_frees_nothing(
    made: tuple[list[dict[int, None]], dict[int, list[tuple[int, int, int]]], set[int]],
) -> None:
    units, ranges, _ = made
    world = World(units, ranges)
    considered = Considered(world.shares())
    gone: set[int] = set()
    for number in range(len(units)):
        group = considered.add(Ino(number), world.footprint(number))
        if group.frees_bytes:
            after = gone | set(group.units)
            for one in group.units:
                # Without any of them, less is freed.
                assert len(world.frees(after - {one})) < len(world.frees(after))
            gone = after


def test_pressure_is_that_of_the_nearest_limit() -> None:
    limits = Limits(capacity_bytes=1000, min_free_bytes=100, max_files=10)
    load = Load(allocated_bytes=500, files=9, free_bytes=400, inodes=1000, free_inodes=500)
    assert load.pressure(limits) == 0.9
    assert load.need(limits, 0.8) == Need(0, 1)
    assert load._replace(free_bytes=100).pressure(limits) == 1.0
    assert load._replace(free_bytes=100).need(limits, 0.5) == Need(100, 4)
    assert load._replace(free_inodes=5).pressure(limits) == 2.0
    assert load._replace(free_inodes=5, files=0).need(limits, 0.9) == Need(1, 0)
    assert load.pressure(Limits()) == 0.0
    assert not load.need(Limits(), 0.9)


def test_what_was_used_once_leaves_first() -> None:
    policy = POLICIES["s3fifo"]
    new = policy.insert(5, was_evicted=False)
    assert new == Place(SMALL, 5, 0)
    assert policy.examine(new, 9) is None
    used = policy.use(new)
    assert policy.examine(used, 9) == Place(MAIN, 9, 0)
    assert policy.insert(5, was_evicted=True).queue == MAIN
    many = Place(MAIN, 1, 0)
    for _ in range(9):
        many = policy.use(many)
    turns = itertools.takewhile(lambda place: place is not None, _turns(policy, many))
    assert len(list(turns)) == 3


def _turns(policy: object, place: Place) -> object:
    while True:
        found = policy.examine(place, 9)  # type: ignore[attr-defined]
        yield found
        if found is None:
            return
        place = found
