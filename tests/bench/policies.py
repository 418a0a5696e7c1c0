"""Cache traces made by code, and what policies save on them: the two we have, and two we dropped.

Sizes are in units of 1 MiB, heavy-tailed (Pareto 1.1, at most 500); the cache is a part of all bytes.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dedupfs.core.policies import MAIN, POLICIES, SMALL, USED, Place

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS = 5000
LENGTH = 60_000


class Ratio(NamedTuple):
    """Parts served from the cache."""

    units: float
    bytes: float


class Cache(Protocol):
    def get(self, unit: int, size: int) -> bool:
        """Use a unit; return whether it was there."""


def traces() -> dict[str, tuple[list[int], float]]:
    """Return traces by name, each with the cache's size as a part of all bytes."""
    rng = random.Random(1)
    zipf = _zipf(rng, UNITS, 0.9)
    scans, again, ranks = list[int](), list[int](), list[int]()
    new = itertools.count(UNITS)
    while len(scans) < LENGTH:
        scans += [zipf() for _ in range(1500)] + [next(new) for _ in range(700)]
    while len(again) < LENGTH:
        again += [zipf() for _ in range(2000)] + list(range(UNITS, UNITS + 1500))
    models = _zipf(rng, 300, 0.8)
    while len(ranks) < LENGTH:
        ranks += [unit for unit in (next(new) for _ in range(4)) for _ in range(3)]
        ranks += [models() for _ in range(6)]
    return {
        "zipf": ([zipf() for _ in range(LENGTH)], 0.05),
        "zipf and one-time scans": (scans, 0.05),
        "zipf and the same scan": (again, 0.2),
        "a loop over twice the cache": ([turn % 900 for turn in range(LENGTH // 2)], 0.5),
        "popularity that drifts": ([(zipf() + turn // 6000 * 400) % UNITS for turn in range(LENGTH)], 0.05),
        "folders of ranks among models": (ranks, 0.02),
    }  # fmt: skip


def measure(trace: list[int], part: float, make: Callable[[int], Cache]) -> Ratio:
    """Return what the cache serves of a trace."""
    rng = random.Random(2)
    sizes: dict[int, int] = {}
    for unit in trace:
        if unit not in sizes:
            sizes[unit] = max(1, min(500, int(rng.paretovariate(1.1))))
    cache = make(int(sum(sizes.values()) * part))
    hits = [unit for unit in trace if cache.get(unit, sizes[unit])]
    served, all_bytes = (sum(sizes[unit] for unit in units) for units in (hits, trace))
    return Ratio(len(hits) / len(trace), served / all_bytes)


def _zipf(rng: random.Random, count: int, skew: float) -> Callable[[], int]:
    sums = list(itertools.accumulate(1 / (rank + 1) ** skew for rank in range(count)))
    order = list(range(count))
    rng.shuffle(order)
    return lambda: order[bisect.bisect(sums, rng.random() * sums[-1])]


class Ours:
    """A policy of core.policies over queues in memory, as vfs.planning drives it."""

    def __init__(self, name: str, capacity: int) -> None:
        self.policy = POLICIES[name]
        self.left = capacity
        self.sizes: dict[int, int] = {}
        self.places: dict[int, Place] = {}
        self.queues: dict[int, OrderedDict[int, None]] = {
            queue: OrderedDict() for queue in (USED, SMALL, MAIN)
        }
        self.ghosts: OrderedDict[int, None] = OrderedDict()
        self.now = 0

    def get(self, unit: int, size: int) -> bool:
        self.now += 1
        place = self.places.get(unit)
        if place is not None:
            self.places[unit] = self.policy.use(place)
            if place.queue == USED:
                self.queues[USED].move_to_end(unit)
            return True
        while self.left < size and self.places:
            self.evict()
        place = self.policy.insert(self.now, was_evicted=unit in self.ghosts)
        self.places[unit], self.sizes[unit] = place, size
        self.queues[place.queue][unit] = None
        self.left -= size
        return False

    def evict(self) -> None:
        queue = self.policy.queue(main=len(self.queues[MAIN]), total=len(self.places))
        if not self.queues[queue]:
            queue = MAIN if queue == SMALL else SMALL
        unit = next(iter(self.queues[queue]))
        del self.queues[queue][unit]
        place = self.policy.examine(self.places[unit], self.now)
        if place is not None:
            self.places[unit] = place
            self.queues[place.queue][unit] = None
            return
        del self.places[unit]
        self.left += self.sizes.pop(unit)
        self.ghosts[unit] = None
        while len(self.ghosts) > max(len(self.queues[MAIN]), 10):
            self.ghosts.popitem(last=False)


class Sieve:
    """SIEVE (Zhang et al., NSDI 2024)."""

    def __init__(self, capacity: int) -> None:
        self.left = capacity
        self.line: list[tuple[int, int]] = []  # when made, unit
        self.visited: dict[int, bool] = {}
        self.sizes: dict[int, int] = {}
        self.hand = self.now = 0

    def get(self, unit: int, size: int) -> bool:
        self.now += 1
        if unit in self.visited:
            self.visited[unit] = True
            return True
        while self.left < size and self.line:
            at = bisect.bisect(self.line, (self.hand, 1 << 60))
            if at == len(self.line):
                self.hand = 0
                continue
            self.hand, victim = self.line[at]
            if self.visited[victim]:
                self.visited[victim] = False
                continue
            del self.line[at], self.visited[victim]
            self.left += self.sizes.pop(victim)
        self.line.append((self.now, unit))
        self.visited[unit], self.sizes[unit] = False, size
        self.left -= size
        return False


class Gdsf:
    """Greedy-Dual-Size-Frequency (Cherkasova, 1998), every miss at the same cost."""

    def __init__(self, capacity: int) -> None:
        self.left = capacity
        self.heap: list[tuple[float, int]] = []
        self.kept: dict[int, tuple[float, int, int]] = {}  # priority, uses, size
        self.age = 0.0

    def get(self, unit: int, size: int) -> bool:
        known = self.kept.get(unit)
        while known is None and self.left < size and self.kept:
            priority, victim = heapq.heappop(self.heap)
            if victim in self.kept and self.kept[victim][0] == priority:
                self.age = priority
                self.left += self.kept.pop(victim)[2]
        uses = known[1] + 1 if known else 1
        priority = self.age + uses / size
        self.kept[unit] = priority, uses, size
        heapq.heappush(self.heap, (priority, unit))
        self.left -= 0 if known else size
        return known is not None


CACHES: dict[str, Callable[[int], Cache]] = {
    **{name: lambda capacity, name=name: Ours(name, capacity) for name in POLICIES},  # type: ignore[misc]
    "(sieve)": Sieve,
    "(gdsf)": Gdsf,
}
