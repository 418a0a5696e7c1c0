"""Arithmetic of half-open integer ranges: sets of them, and counts over them. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Counted(NamedTuple):
    """`start..stop` has `users` users, at least one."""

    start: int
    stop: int
    users: int


class IntervalSet:
    """A set of integers kept as disjoint, not touching, sorted ranges."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def add(self, start: int, stop: int) -> None:
        """Add `start..stop`."""
        if start >= stop:
            return
        if self._stops and start == self._stops[-1]:  # the common case: append
            self._stops[-1] = stop
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def overlaps(self, start: int, stop: int) -> bool:
        """Tell whether any of `start..stop` is in the set."""
        at = bisect_right(self._stops, start)
        return at < len(self._starts) and self._starts[at] < stop

    def run_around(self, position: int) -> tuple[int, int]:
        """Return the range holding or ending at `position`, else `(position, position)`."""
        at = bisect_left(self._stops, position)
        if at < len(self._starts) and self._starts[at] <= position:
            return self._starts[at], self._stops[at]
        return position, position

    @property
    def stop(self) -> int:
        """The end of the last range; 0 when empty."""
        return self._stops[-1] if self._stops else 0


def gaps(used: Iterable[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """Return the parts of `start..stop` that no range of `used` (sorted) covers."""
    found: list[tuple[int, int]] = []
    for used_start, used_stop in used:
        if used_start > start:
            found.append((start, min(used_start, stop)))
        start = max(start, used_stop)
        if start >= stop:
            break
    if start < stop:
        found.append((start, stop))
    return found


def tally(ranges: Iterable[tuple[int, int]]) -> list[Counted]:
    """Return how often each integer is covered by `ranges`, as sorted, disjoint counted ranges."""
    events: list[tuple[int, int]] = []
    for start, stop in ranges:
        events += ((start, 1), (stop, -1))
    events.sort()
    out: list[Counted] = []
    count, at = 0, 0
    for position, change in events:
        if count and at < position:
            out.append(Counted(at, position, count))
        at = position
        count += change
    return _merge(out)


def add_count(rows: list[Counted], start: int, stop: int) -> list[Counted]:
    """Return `rows` with `start..stop` counted once more.

    `rows` are sorted, disjoint, and hold at least all that overlap or touch `start..stop`.
    """
    split = _split(rows, start, stop)
    out: list[Counted] = []
    at = start
    for row in split:
        if row.stop <= start or row.start >= stop:
            if row.start >= stop and at < stop:
                out.append(Counted(at, stop, 1))
                at = stop
            out.append(row)
            continue
        if at < row.start:
            out.append(Counted(at, row.start, 1))
        out.append(Counted(row.start, row.stop, row.users + 1))
        at = row.stop
    if at < stop:
        out.append(Counted(at, stop, 1))
    return _merge(out)


def drop_count(
    rows: list[Counted], start: int, stop: int
) -> tuple[list[Counted], list[tuple[int, int]]]:
    """Return `rows` with `start..stop` counted once less, and the ranges that reached zero.

    Raises ValueError when part of `start..stop` is not counted at all.
    """
    out: list[Counted] = []
    freed: list[tuple[int, int]] = []
    covered = 0
    for row in _split(rows, start, stop):
        if row.stop <= start or row.start >= stop:
            out.append(row)
            continue
        covered += row.stop - row.start
        if row.users > 1:
            out.append(Counted(row.start, row.stop, row.users - 1))
        elif freed and freed[-1][1] == row.start:
            freed[-1] = (freed[-1][0], row.stop)
        else:
            freed.append((row.start, row.stop))
    if covered != stop - start:
        raise ValueError(f"{stop - start - covered} bytes of {start}..{stop} have no count")
    return _merge(out), freed


def _split(rows: list[Counted], start: int, stop: int) -> list[Counted]:
    """Cut rows at `start` and at `stop`."""
    out: list[Counted] = []
    for row in rows:
        at = row.start
        for edge in (start, stop):
            if at < edge < row.stop:
                out.append(Counted(at, edge, row.users))
                at = edge
        out.append(Counted(at, row.stop, row.users))
    return out


def _merge(rows: list[Counted]) -> list[Counted]:
    """Join touching rows of the same count."""
    out: list[Counted] = []
    for row in rows:
        if out and out[-1].stop == row.start and out[-1].users == row.users:
            out[-1] = Counted(out[-1].start, row.stop, row.users)
        else:
            out.append(row)
    return out
