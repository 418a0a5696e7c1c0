"""Makes room: removes units as planned, drops what they held, gets the space back from the disk.

A unit's names go in one transaction, so it is gone for everybody at once and stays gone after a kill;
what it held is an orphan then, dropped in slices of about 10 ms. Space comes back when a
checkpoint no longer needs it. One round at a time; those who wait for room look again after each.
"""

from __future__ import annotations

import dataclasses
import logging
import stat
from typing import TYPE_CHECKING, Final, TypeVar

import trio
import trio.lowlevel

from dedupfs.core.errors import FsError, NoSpace
from dedupfs.core.eviction import Limits, Need, largest
from dedupfs.core.policies import POLICIES, USED
from dedupfs.store import namespace, units
from dedupfs.store.store import remove_files
from dedupfs.store.units import Eviction
from dedupfs.vfs.planning import DIED, EXPIRED, TOGETHER, Planner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from dedupfs.core.eviction import Group, Settings
    from dedupfs.core.types import Ino
    from dedupfs.vfs.inodes import Change, Inodes
    from dedupfs.vfs.planning import Plan
    from dedupfs.vfs.room import Room

log = logging.getLogger(__name__)

T = TypeVar("T")

_AT_ONCE: Final = 20  # units removed before others may
_FLUSH_AT_ONCE: Final = 500
# So much in a round: who waits for room goes on after it.
_ROUND_BYTES: Final = 1 << 30
_ROUND_FILES: Final = 10_000
_RETRY_NS: Final = 10**9


@dataclasses.dataclass(slots=True)
class Tally:
    """What was evicted since the mount."""

    units: int = 0
    freed_bytes: int = 0
    files: int = 0
    last: tuple[int, bytes, str] | None = None  # when, path, why


class Evictor:
    """The evictor of a mount."""

    def __init__(
        self,
        inodes: Inodes,
        room: Room,
        settings: Settings,
        *,
        sync: Callable[[], Awaitable[None]],
        place_pending: Callable[[], None],
    ) -> None:
        """`sync` makes a checkpoint, `place_pending` places what writers hold in memory."""
        self._inodes = inodes
        self._store = inodes.store
        self._index = inodes.store.index
        self.room = room
        self.planner = Planner(inodes)
        self._sync = sync
        self._place_pending = place_pending
        # Held for a round, and for a plan that is shown: one at a time.
        self._lock = trio.Lock()
        self._wanted = trio.Event()
        self.tally = Tally()
        self._fruitless: tuple[int, int, int] | None = None  # nothing could go then
        self._fruitless_until = 0
        self.settings = settings
        self.change_settings(settings)
        room.wake = self.wake

    def change_settings(self, settings: Settings) -> None:
        """Go by other settings; the depth stays."""
        old, self.settings = self.settings, settings
        self.planner.protects_owners = settings.protects_owners
        self._fruitless = None
        if old.policy != settings.policy:
            self._inodes.units.set_policy(POLICIES[settings.policy], self._inodes.clock())
        self.room.set_limits(settings.limits)

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.room.limits

    def wake(self) -> None:
        """Let `serve` look whether there is something to do."""
        self._wanted.set()

    async def serve(self) -> None:
        """Keep the pressure below the high mark, whenever a writer has seen it above."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            if self.room.load().pressure(self.limits) <= self.limits.high_mark:
                continue
            try:
                await self.to_low_mark()
            except (FsError, OSError) as error:
                log.warning("eviction: %s", error)
            await trio.sleep(_RETRY_NS / 10**9)

    async def to_low_mark(self) -> None:
        """Remove units until the pressure is at the low mark, or nothing can go."""
        async with self._lock:
            if self._is_coming and self.room.load().need(self.limits, self.limits.low_mark):
                await self.get_back()
            while self.room.load().need(self.limits, self.limits.low_mark):
                if not await self._round(self._left_to(self.limits.low_mark)):
                    return

    async def make_room(self, size: int, files: int = 0) -> bool:
        """Make room for so much; return whether there is, now: nothing else runs in between."""
        self._place_pending()
        while not self.room.fits(size, files):
            async with self._lock:
                if self._is_coming:
                    # What was removed before comes back first: nothing need go for it.
                    await self.get_back()
                if self.room.fits(size, files):
                    return True
                load = self.room.load()
                short = Need(max(0, size - self.room.hard_left(load)), files)
                wanted = load.need(self.limits, self.limits.low_mark)
                wanted = Need(max(short.size, wanted.size), max(short.files, wanted.files))
                if not await self._round(_of_a_round(wanted, short)):
                    self._place_pending()
                    return self.room.fits(size, files)
            self._wanted.set()
        return True

    @property
    def _is_coming(self) -> bool:
        """Whether something was removed whose space is not given back yet."""
        inodes = self._inodes
        return self._index.counters.pending_free_bytes > 0 or len(inodes.orphans) > 0

    def _left_to(self, mark: float) -> Need:
        """Return what must go, but for what is already on its way."""
        need = self.room.load().need(self.limits, mark)
        coming = self._index.counters.pending_free_bytes
        return _of_a_round(Need(max(0, need.size - coming), need.files), Need(0))

    async def _round(self, need: Need) -> bool:
        """Remove units that free what is needed; return whether anything came of it."""
        allocated = self._index.counters.allocated_bytes
        removed = 0
        if need and not self._is_fruitless():
            plan = await self.plan(need)
            cause = largest(self.room.load().parts(self.limits))
            removed = await self.carry_out(plan, cause)
            if not removed:
                self._note_fruitless()
        if removed:
            await self.get_back()
        return removed > 0 or self._index.counters.allocated_bytes < allocated

    def _is_fruitless(self) -> bool:
        return self._fruitless == self._state() and self._inodes.clock() < self._fruitless_until

    def _note_fruitless(self) -> None:
        self._fruitless = self._state()
        self._fruitless_until = self._inodes.clock() + _RETRY_NS

    def _state(self) -> tuple[int, int, int]:
        """Return numbers that change when something may go that could not before."""
        return self._index.changes_made, len(self._inodes.live), self._index.epoch

    def now_ns(self) -> int:
        """Return the time."""
        return self._inodes.clock()

    async def flush_uses(self) -> None:
        """Write when units were used; hold nothing up for long."""
        while self._inodes.units.flush(_FLUSH_AT_ONCE):
            await trio.lowlevel.checkpoint()

    async def look(self, need: Need) -> Plan:
        """Return what would go, with its paths."""
        return self.planner.name(await self.plan(need))

    async def plan(self, need: Need) -> Plan:
        """Return what would go; hold nothing up for long."""
        await self.flush_uses()
        return await in_steps(self.planner.plan(need))

    async def carry_out(self, plan: Plan, cause: str = "asked for") -> int:
        """Remove the plan's units, but for those that may not go any more; return how many went."""
        before = self.tally.units, self.tally.freed_bytes
        removed = 0
        left = list(plan.groups)
        while left:
            busy = self.planner.busy()
            count = 0
            while left and count < _AT_ONCE:
                group, reason = left.pop(0)
                if self._may_go(group, busy):
                    self._remove(group, reason, cause)
                    removed += len(group.units)
                count += len(group.units)
            await trio.lowlevel.checkpoint()
        if removed:
            count, freed = self.tally.units - before[0], self.tally.freed_bytes - before[1]
            log.info("evicted %d units of %d bytes (%s)", count, freed, cause)
        gone = {ino for group, _ in plan.groups for ino in group.units}
        moves = {ino: place for ino, place in plan.moves.items() if ino not in gone}
        if moves:
            with self._index.write() as txn:
                for ino, place in moves.items():
                    unit = units.get(txn, ino)
                    if unit is not None:
                        units.put(txn, ino, unit, units.placed(unit, place))
        return removed

    def _may_go(self, group: Group, busy: set[Ino]) -> bool:
        for ino in group.units:
            with self._index.read() as txn:
                unit = units.get(txn, ino)
            if unit is None or self.planner.why_kept(ino, unit, busy) is not None:
                return False
        return True

    def _remove(self, group: Group, reason: str, cause: str) -> None:
        for ino in group.units:
            is_last = ino == group.units[-1]
            why = f"{reason if is_last else TOGETHER}; {cause}"
            freed = group.frees_bytes if is_last else 0
            try:
                paths = self._detach(ino, freed, group.frees_files if is_last else 0, why)
            except NoSpace as error:
                log.warning("eviction: %s", error)
                continue
            log.debug("evicted %s: %s, %d bytes", paths, why, freed)

    def _detach(self, ino: Ino, freed: int, files: int, why: str) -> list[bytes]:
        """Take a unit's names away, and with them what only they lead to."""
        with self._inodes.change() as change:
            names = self._inodes.units.names_of(change.txn, ino)
            paths = []
            for parent, entry in names:
                above = namespace.path_of(change.txn, parent)
                paths.append(above + b"/" + entry.name if above else entry.name)
                _unlink(change, parent, entry, ino)
            for path in paths:
                row = Eviction(change.now_ns, freed, files, path, why)
                units.note_evicted(change.txn, row)
            now = change.now_ns
        for parent, entry in names:
            self._inodes.forget_name(parent, entry.name)
        self.tally.units += 1
        self.tally.freed_bytes += freed
        self.tally.files += files
        if paths:
            self.tally.last = (now, paths[0], why)
        return paths

    async def get_back(self) -> None:
        """Drop what was evicted or unlinked, and give its space back to the disk."""
        while self._inodes.drop_unused():
            await trio.lowlevel.checkpoint()
        await self._sync()
        more = True
        while more:
            doomed, more = self._store.reclaim()
            if doomed:
                await trio.to_thread.run_sync(remove_files, doomed)
                self._store.note_removed(doomed)
            else:
                await trio.lowlevel.checkpoint()

    async def evict(self, plan: Callable[[], Awaitable[Plan]], cause: str = "asked for") -> Plan:
        """Make a plan, carry it out, and get the space back; nobody else does meanwhile."""
        async with self._lock:
            made = self.planner.name(await plan())
            if await self.carry_out(made, cause):
                await self.get_back()
            return made

    async def plan_dead(self, died_before_ns: int | None = None) -> Plan:
        """Return a plan for all units whose owner has died; `died_before_ns`: was found dead."""
        await self.flush_uses()
        self.planner.find_dead_owners()
        with self._index.read() as txn:
            rows = units.queued(txn, units.DEAD, b"", 1 << 20)
        inos = [
            (row.ino, DIED) for row in rows if died_before_ns is None or row.order <= died_before_ns
        ]
        return self.planner.name(await in_steps(self.planner.plan_of(inos)))

    async def remove_old(self) -> None:
        """Remove what outlived the time to live, or its dead owner; looks at the oldest only."""
        settings = self.settings
        if settings.ttl_ns is not None:
            await self._remove_expired(self._inodes.clock() - settings.ttl_ns)
        if settings.gc_after_ns is not None:
            self.planner.find_dead_owners()
            died_before = self._inodes.clock() - settings.gc_after_ns
            with self._index.read() as txn:
                oldest = units.queued(txn, units.DEAD, b"", 1)
            if oldest and oldest[0].order <= died_before:
                await self.evict(lambda: self.plan_dead(died_before), "auto-gc")

    async def _remove_expired(self, used_before_ns: int) -> None:
        with self._index.read() as txn:
            oldest = units.queued(txn, USED, b"", 1)
        if not oldest or oldest[0].order > used_before_ns:
            return

        async def plan() -> Plan:
            await self.flush_uses()
            self.planner.find_dead_owners()
            with self._index.read() as txn:
                rows = units.queued(txn, USED, b"", _ROUND_FILES)
            inos = [(row.ino, EXPIRED) for row in rows if row.order <= used_before_ns]
            return await in_steps(self.planner.plan_of(inos))

        await self.evict(plan, "ttl")


def _of_a_round(need: Need, least: Need) -> Need:
    return Need(
        max(least.size, min(need.size, _ROUND_BYTES)),
        max(least.files, min(need.files, _ROUND_FILES)),
    )


def _unlink(change: Change, parent: Ino, entry: namespace.Dirent, ino: Ino) -> None:
    namespace.remove_entry(change.txn, parent, entry)
    change.renamed(parent, ino)
    if stat.S_ISDIR(change.inode(ino).mode):
        change.inode(parent).nlink -= 1
    change.put_with_mtime(parent)
    change.evict(ino)


async def in_steps(steps: Generator[None, None, T]) -> T:
    """Return what the generator returns; others have their turn after each of its steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await trio.lowlevel.checkpoint()
