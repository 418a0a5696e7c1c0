"""How much room is short, and which units free it together. Decides; never deletes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from dedupfs.core.intervals import Counted, tally
from dedupfs.core.policies import POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dedupfs.core.types import Ino


__all__ = ["POLICIES", "Considered", "Footprint", "Group", "Limits", "Load", "Need", "Settings"]

# Of a segment, start, stop: the counted ranges that overlap it, of all files.
Shares: TypeAlias = "Callable[[int, int, int], Iterable[Counted]]"
_INODES_SHARE: Final = 100  # of the host's: fewer free are too few


@dataclass(frozen=True, slots=True)
class Limits:
    """What a store may take. None: as much as there is."""

    capacity_bytes: int | None = None  # of segments, allocated
    min_free_bytes: int | None = None  # of the host's file system
    min_free_is_goal: bool = True  # room is made for it, nobody is refused for it
    max_files: int | None = None
    low_mark: float = 0.90  # of each limit: eviction ends below it
    high_mark: float = 0.95  # and starts above it


@dataclass(frozen=True, slots=True)
class Settings:
    """How a store is kept within its limits."""

    limits: Limits = Limits()
    depth: int = 1
    policy: str = "lru"
    protects_owners: bool = True
    ttl_ns: int | None = None  # units not used for so long go
    gc_after_ns: int | None = None  # and those whose owner has been dead for so long


class Load(NamedTuple):
    """What there is. `allocated_bytes` has what is on its way to the disk."""

    allocated_bytes: int
    files: int
    free_bytes: int
    inodes: int = 0  # of the host's file system, 0: it does not count them
    free_inodes: int = 0

    def parts(self, limits: Limits) -> dict[str, float]:
        """Return the pressure by limit: 1.0 is at the limit."""
        found: dict[str, float] = {}
        if limits.capacity_bytes is not None:
            found["capacity"] = self.allocated_bytes / max(limits.capacity_bytes, 1)
        if limits.min_free_bytes:
            found["min-free"] = limits.min_free_bytes / max(self.free_bytes, 1)
            if self.inodes:
                found["inodes"] = self.inodes / _INODES_SHARE / max(self.free_inodes, 1)
        if limits.max_files is not None:
            found["max-files"] = self.files / max(limits.max_files, 1)
        return found

    def pressure(self, limits: Limits) -> float:
        """Return the largest of them; 0.0 without limits."""
        return max(self.parts(limits).values(), default=0.0)

    def need(self, limits: Limits, mark: float) -> Need:
        """Return what must go for the pressure to fall to `mark`."""
        size = files = 0
        if limits.capacity_bytes is not None:
            size = self.allocated_bytes - int(limits.capacity_bytes * mark)
        if limits.min_free_bytes:
            size = max(size, int(limits.min_free_bytes / mark) - self.free_bytes)
        if limits.max_files is not None:
            files = self.files - int(limits.max_files * mark)
        if not max(size, files, 0) and self.parts(limits).get("inodes", 0.0) > mark:
            size = 1  # how many segments it brings is not known before
        return Need(max(size, 0), max(files, 0))


class Need(NamedTuple):
    """What is to be freed."""

    size: int
    files: int = 0

    def __bool__(self) -> bool:
        """Tell whether there is something."""
        return self.size > 0 or self.files > 0

    def less(self, group: Group) -> Need:
        """Return what is left when `group` has gone."""
        return Need(self.size - group.frees_bytes, self.files - group.frees_files)


@dataclass(slots=True)
class Footprint:
    """What a unit's names lead to."""

    # By inode: its names in this unit, all its names, and the segment ranges of its extents.
    files: dict[Ino, tuple[int, int, list[tuple[int, int, int]]]]
    entries: int = 0  # of all kinds


class Group(NamedTuple):
    """Units that free space together: each of them, without the others, frees less or nothing."""

    units: tuple[Ino, ...]  # the last is the one that made it complete
    frees_bytes: int
    frees_files: int


class Considered:
    """Units looked at so far, in the policy's order. A byte is free when all its users are among them.

    So a unit whose bytes others still hold frees nothing and is passed over, and it is taken later,
    together with the unit that was the last to hold them.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._users: dict[int, list[Counted]] = {}  # by segment, sorted, disjoint
        self._held: dict[int, list[tuple[int, int, Ino]]] = {}  # by segment: of those passed over
        self._partial: dict[Ino, tuple[int, list[Ino]]] = {}  # names seen, and where
        self._taken: set[Ino] = set()

    def add(self, unit: Ino, footprint: Footprint) -> Group:
        """Look at one more unit; return it with those passed over that go with it."""
        mine: dict[int, list[tuple[int, int]]] = {}
        with_whom: set[Ino] = set()
        files = self._collect(unit, footprint, mine)
        freed = 0
        for segment, used in mine.items():
            for own in tally(used):
                for start, stop in self._freed(segment, own):
                    freed += stop - start
                    with_whom |= self._holders(segment, start, stop)
        with_whom -= {unit, *self._taken}
        group = Group((*sorted(with_whom), unit), freed, files)
        if freed:
            self.take(group)
        else:
            for segment, used in mine.items():
                held = self._held.setdefault(segment, [])
                held += ((start, stop, unit) for start, stop in used)
        return group

    def _collect(
        self, unit: Ino, footprint: Footprint, mine: dict[int, list[tuple[int, int]]]
    ) -> int:
        """Fill in what the unit completes; return how many files go with it alone."""
        files = 0
        for ino, (here, nlink, ranges) in footprint.files.items():
            holders = self._complete(unit, ino, here, nlink)
            if holders is None:
                continue
            files += not holders
            for segment, start, stop in ranges:
                mine.setdefault(segment, []).append((start, stop))
                for holder in holders:
                    self._held.setdefault(segment, []).append((start, stop, holder))
        return files

    def take(self, group: Group) -> None:
        """Note that these go: no later group has them. Those that free bytes are noted by `add`."""
        self._taken.update(group.units)

    def _complete(self, unit: Ino, ino: Ino, here: int, nlink: int) -> list[Ino] | None:
        """Return the other units that name the file, once all its names are known; else None."""
        if here >= nlink:
            return []
        seen, holders = self._partial.pop(ino, (0, []))
        if seen + here < nlink:
            self._partial[ino] = (seen + here, [*holders, unit])
            return None
        return holders

    def _freed(self, segment: int, own: Counted) -> list[tuple[int, int]]:
        """Count the users of a range; return the parts that have no others than those."""
        users = self._users.setdefault(segment, [])
        first = bisect_left(users, own.start, key=_stop)
        last = bisect_right(users, own.stop, key=_start)
        near = _sum(users[first:last], own)
        users[first:last] = near
        found: list[tuple[int, int]] = []
        for row in self._shares(segment, own.start, own.stop):
            for mine in near:
                low = max(row.start, own.start, mine.start)
                high = min(row.stop, own.stop, mine.stop)
                if low < high and mine.users >= row.users:
                    found.append((low, high))
        return found

    def _holders(self, segment: int, start: int, stop: int) -> set[Ino]:
        held = self._held.get(segment, ())
        return {unit for low, high, unit in held if low < stop and high > start}


def _start(row: Counted) -> int:
    return row.start


def _stop(row: Counted) -> int:
    return row.stop


def _sum(known: list[Counted], added: Counted) -> list[Counted]:
    """Return the users of both, as sorted, disjoint ranges."""
    events: list[tuple[int, int]] = []
    for row in (*known, added):
        events += ((row.start, row.users), (row.stop, -row.users))
    events.sort()
    out: list[Counted] = []
    count = at = 0
    for position, change in events:
        if count and at < position:
            if out and out[-1].stop == at and out[-1].users == count:
                out[-1] = Counted(out[-1].start, position, count)
            else:
                out.append(Counted(at, position, count))
        at = position
        count += change
    return out


def largest(parts: Mapping[str, float]) -> str:
    """Return the limit that is nearest, as text."""
    if not parts:
        return "no limit"
    name = max(parts, key=lambda key: parts[key])
    return f"{name} at {parts[name]:.1%}"
