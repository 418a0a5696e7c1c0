"""Which units are to go: walks the policy's order over the index, in steps.

A plan is made of looks at different moments, so whoever carries it out looks again whether a unit
may go. Units whose owner died come first, then the policy's order. A unit that frees nothing is
passed over and kept in mind: see `core.eviction.Considered`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dedupfs.core.eviction import Considered, Group, Need
from dedupfs.core.policies import MAIN, SMALL, USED, Place
from dedupfs.store import footprint, namespace, units

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from dedupfs.core.format import Unit
    from dedupfs.core.policies import Policy
    from dedupfs.core.types import Ino
    from dedupfs.vfs.inodes import Inodes
    from dedupfs.vfs.owners import Owners

_ROWS: Final = 64
_SHOWN_MAX: Final = 1000  # protected units that are named

OPEN: Final = "a file in it is open"
PINNED: Final = "pinned"
ALIVE: Final = "its owner, process {pid}, lives"
DIED: Final = "owner died"
OLDEST: Final = "least recently used"
UNUSED: Final = "not used again"
EXPIRED: Final = "not used for the time to live"
QUEUE_NAMES: Final = {USED: "by last use", SMALL: "new", MAIN: "used again"}
TOGETHER: Final = "shared, freed with others"


@dataclass(slots=True)
class Plan:
    """Groups of units to go, in order, and why others stay."""

    groups: list[tuple[Group, str]] = field(default_factory=list)
    moves: dict[Ino, Place] = field(default_factory=dict)  # units that get another turn
    protected: list[tuple[Ino, str]] = field(default_factory=list)
    passed_over: list[Ino] = field(default_factory=list)  # freed nothing, when looked at
    left: Need = field(default_factory=lambda: Need(0))
    paths: dict[Ino, str] = field(default_factory=dict)  # of all units named here, when shown

    @property
    def frees_bytes(self) -> int:
        """What all groups free."""
        return sum(group.frees_bytes for group, _reason in self.groups)


class Planner:
    """Makes plans."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes
        self._index = inodes.store.index
        self.protects_owners = True
        self.looked_at = 0  # units, ever

    def busy(self) -> set[Ino]:
        """Return the units that have open or mapped files."""
        found: set[Ino] = set()
        above: dict[Ino, Ino | None] = {}
        with self._index.read() as txn:
            for ino in self._inodes.live:
                found |= self._inodes.units.units_of(txn, ino, above)
        return found

    def open_files(self) -> dict[Ino, int]:
        """Return how many open files units have."""
        found: dict[Ino, int] = {}
        above: dict[Ino, Ino | None] = {}
        with self._index.read() as txn:
            for ino in self._inodes.live:
                for unit in self._inodes.units.units_of(txn, ino, above):
                    found[unit] = found.get(unit, 0) + 1
        return found

    def name(self, plan: Plan) -> Plan:
        """Fill in the paths of the plan's units, and the pinned ones, which no queue leads to."""
        pinned = itertools.islice(self._rows(units.PINS), _SHOWN_MAX)
        known = {ino for ino, _ in plan.protected}
        plan.protected += [(ino, PINNED) for ino in pinned if ino not in known]
        inos = [ino for group, _ in plan.groups for ino in group.units]
        inos += [ino for ino, _ in plan.protected]
        with self._index.read() as txn:
            for ino in [*inos, *plan.passed_over]:
                plan.paths[ino] = os.fsdecode(namespace.path_of(txn, ino) or b"")
        return plan

    def frees_alone(self, ino: Ino) -> int:
        """Return what removing the unit alone would free; holds others up for as long as it takes."""
        considered = Considered(footprint.shares_of(self._index))
        with self._index.read() as txn:
            names = len(self._inodes.units.names_of(txn, ino))
        steps = footprint.measure(self._index, ino, names)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return considered.add(ino, end.value).frees_bytes

    def why_kept(self, ino: Ino, unit: Unit, busy: set[Ino]) -> str | None:
        """Return why the unit must not go; None: it may."""
        if unit.flags & units.PINNED:
            return PINNED
        if ino in busy:
            return OPEN
        if self.protects_owners and unit.owner_pid and not unit.orphaned_ns:
            return ALIVE.format(pid=unit.owner_pid)
        return None

    def find_dead_owners(self) -> int:
        """Note the units whose owner has died; return how many were found now."""
        owners = self._inodes.units.owners
        with self._index.read() as txn:
            heads = list(units.owner_heads(txn))
            dead = [head for head in heads if _is_dead(owners, units.get(txn, head.ino))]
        if not dead:
            return 0
        found = 0
        with self._index.write() as txn:
            now = max(1, self._inodes.clock())
            for head in dead:
                for ino in units.of_owner(txn, head.order):
                    unit = units.get(txn, ino)
                    if unit is not None and owners.is_dead(unit):
                        new = dataclasses.replace(unit, orphaned_ns=now)
                        units.put(txn, ino, unit, new)
                        found += 1
        return found

    def plan(self, need: Need) -> Generator[None, None, Plan]:
        """Return units that free what is needed, or all that can go; yields between two steps."""
        self.find_dead_owners()
        made = Plan()
        yield from self._fill(made, need, self._in_order(made))
        return made

    def plan_of(
        self, inos: list[tuple[Ino, str]], need: Need | None = None
    ) -> Generator[None, None, Plan]:
        """Return a plan for these units, each with the reason; all go, whatever they free."""
        made = Plan()
        yield from self._fill(made, need, iter(inos), takes_all=True)
        return made

    def _fill(
        self,
        made: Plan,
        need: Need | None,
        candidates: Iterator[tuple[Ino, str]],
        *,
        takes_all: bool = False,
    ) -> Generator[None, None, None]:
        considered = Considered(footprint.shares_of(self._index))
        busy = self.busy()
        seen: set[Ino] = set()
        left = need
        for ino, reason in candidates:
            if left is not None and not left:
                break
            if ino in seen:
                continue
            seen.add(ino)
            self.looked_at += 1
            names = self._names_to_go(ino, busy, made)
            if not names:
                continue
            measured = yield from footprint.measure(self._index, ino, names)
            group = considered.add(ino, measured)
            frees = group.frees_bytes > 0 or (
                left is not None and left.files > 0 and group.frees_files > 0
            )
            if not (frees or takes_all):
                made.passed_over.append(ino)
                continue
            considered.take(group)
            made.groups.append((group, reason))
            left = left and left.less(group)
            yield
        made.left = left or Need(0)

    def _names_to_go(self, ino: Ino, busy: set[Ino], made: Plan) -> int:
        """Return how many names the unit has; 0 when it must not go."""
        with self._index.read() as txn:
            unit = units.get(txn, ino)
            names = len(self._inodes.units.names_of(txn, ino))
        if unit is None:
            return 0
        why = self.why_kept(ino, unit, busy)
        if why is None:
            return names
        if len(made.protected) < _SHOWN_MAX:
            made.protected.append((ino, why))
        return 0

    def _in_order(self, made: Plan) -> Iterator[tuple[Ino, str]]:
        for ino in self._rows(units.DEAD):
            yield ino, DIED
        policy = self._inodes.units.policy
        with self._index.read() as txn:
            line = _Line(txn.rows("units"), units.main_count(txn), self._rows, self._unit)
        reason = OLDEST if policy.name == "lru" else UNUSED
        for ino in line.victims(policy, self._inodes.clock()):
            made.moves.update(line.take_moves())
            yield ino, reason
        made.moves.update(line.take_moves())

    def _unit(self, ino: Ino) -> Unit | None:
        with self._index.read() as txn:
            return units.get(txn, ino)

    def _rows(self, queue: int) -> Iterator[Ino]:
        after = b""
        while True:
            with self._index.read() as txn:
                rows = units.queued(txn, queue, after, _ROWS)
            for row in rows:
                yield row.ino
            if len(rows) < _ROWS:
                return
            after = rows[-1].key


class _Line:
    """The policy's queues as they would be after each step; nothing is written."""

    def __init__(
        self,
        total: int,
        main: int,
        rows: Callable[[int], Iterator[Ino]],
        unit: Callable[[Ino], Unit | None],
    ) -> None:
        self._total = total
        self._main = main
        self._rows = rows
        self._unit = unit
        self._heads: dict[int, Iterator[Ino]] = {}
        self._again: dict[int, deque[tuple[Ino, Place]]] = {}
        self._moves: dict[Ino, Place] = {}

    def take_moves(self) -> dict[Ino, Place]:
        """Return the moves since the last call."""
        taken, self._moves = self._moves, {}
        return taken

    def victims(self, policy: Policy, now_ns: int) -> Iterator[Ino]:
        """Yield units in the order in which they are to go."""
        while True:
            wanted = policy.queue(main=self._main, total=max(self._total, 1))
            found = self._next(wanted)
            if found is None and wanted != USED:
                found = self._next(MAIN if wanted != MAIN else MAIN - 1)
            if found is None:
                return
            ino, place = found
            now_ns += 1
            moved = policy.examine(place, now_ns)
            if moved is None:
                self._total -= 1
                self._main -= place.queue == MAIN
                self._moves.pop(ino, None)
                yield ino
            else:
                self._main += (moved.queue == MAIN) - (place.queue == MAIN)
                self._moves[ino] = moved
                self._again.setdefault(moved.queue, deque()).append((ino, moved))

    def _next(self, queue: int) -> tuple[Ino, Place] | None:
        head = self._heads.setdefault(queue, self._rows(queue))
        for ino in head:
            unit = self._unit(ino)
            if unit is not None and unit.queue == queue:
                return ino, units.place_of(unit)
        again = self._again.get(queue)
        return again.popleft() if again else None


def _is_dead(owners: Owners, unit: Unit | None) -> bool:
    return unit is not None and owners.is_dead(unit)
