"""The daemon's side of eviction: its tasks, its part of `status`, and what commands may ask of it."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Final

import trio
import trio.lowlevel

from dedupfs.core import quantities
from dedupfs.core.errors import DedupfsError, FsError, NoSuchName
from dedupfs.core.eviction import Limits, Need, Settings
from dedupfs.service.control import BadRequest
from dedupfs.service.options import LIVE
from dedupfs.service.schema import BadOption
from dedupfs.store import namespace, units
from dedupfs.vfs import planning

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from dedupfs.core.format import Unit
    from dedupfs.core.types import Ino
    from dedupfs.service.control import Command, SlowCommand
    from dedupfs.service.options import MountOptions
    from dedupfs.store.store import Store
    from dedupfs.store.txn import Txn
    from dedupfs.vfs.planning import Plan
    from dedupfs.vfs.vfs import Vfs

    Document = dict[str, object]

log = logging.getLogger(__name__)

EVICT: Final = "evict"
GC: Final = "gc"
WHY: Final = "why"
PIN: Final = "pin"
UNPIN: Final = "unpin"
SET: Final = "set"

_GOAL: Final = quantities.MinFree(fraction=0.05)
_LOOK_INTERVAL_S: Final = 1.0  # others use the disk, too
_USES_INTERVAL_S: Final = 60.0
_LISTED_BYTES: Final = 700_000  # a reply has a limit
_POSITION_MAX: Final = 10_000
_S: Final = 10**9


def settings_of(options: MountOptions, total_bytes: int) -> Settings:
    """Return what the options ask for, on a file system of this size.

    Raises BadOption: more is to be left free than there is, so all would be evicted for nothing.
    """
    min_free = options.min_free
    if min_free is not None and min_free.of(total_bytes) >= total_bytes:
        place = options.sources.get("min-free", "min-free")
        has = f"the disk of the store has {quantities.size(total_bytes)} in all"
        raise BadOption(f"min-free {options.typed()['min-free']} ({place}): {has}")
    return Settings(
        Limits(
            capacity_bytes=options.capacity_bytes,
            min_free_bytes=(_GOAL if min_free is None else min_free).of(total_bytes) or None,
            min_free_is_goal=min_free is None,
            max_files=options.max_files,
            low_mark=options.low_mark,
            high_mark=options.high_mark,
        ),
        depth=options.evict_depth,
        policy=options.policy,
        protects_owners=options.owners == "protect",
        ttl_ns=None if options.ttl_s is None else int(options.ttl_s * _S),
        gc_after_ns=None if options.auto_gc_s is None else int(options.auto_gc_s * _S),
    )


class Evicting:
    """Eviction of one mount; `options` are those in force now."""

    def __init__(self, options: MountOptions, store: Store, vfs: Vfs) -> None:
        """`commands` answer at once, `slow_commands` when the work is done."""
        self.options = options
        self._store = store
        self._vfs = vfs
        self._evictor = vfs.evictor
        self._open: tuple[float, dict[Ino, int]] = (0.0, {})
        self.commands: Mapping[str, Command] = {
            WHY: self._why,
            PIN: lambda request: self._pin(request, vfs.pins.pin),
            UNPIN: lambda request: self._pin(request, vfs.pins.unpin),
            SET: self._set,
        }
        self.slow_commands: Mapping[str, SlowCommand] = {EVICT: self._evict, GC: self._gc}

    async def serve(self) -> None:
        """Make room when it is short, remove what is old, note uses; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._evictor.serve, name="make room")
            nursery.start_soon(self._look, name="look at the disk")
            nursery.start_soon(self._note_uses, name="note uses")
            nursery.start_soon(self._remove_old, name="remove old units")

    async def _look(self) -> None:
        while True:
            await trio.sleep(_LOOK_INTERVAL_S)
            if self._evictor.limits.min_free_bytes:
                self._vfs.room.expire()

    async def _note_uses(self) -> None:
        while True:
            await trio.sleep(_USES_INTERVAL_S)
            await _guarded(self._evictor.flush_uses)

    async def _remove_old(self) -> None:
        while True:
            after_ns = self._evictor.settings.gc_after_ns or 0
            await trio.sleep(min(60.0, max(1.0, after_ns / 2 / _S)) if after_ns else 60.0)
            await _guarded(self._evictor.remove_old)

    def options_document(self) -> Document:
        """Return the options in force, for the control socket."""
        return self.options.document()

    @property
    def evicted_bytes(self) -> int:
        """What evictions have freed since the mount."""
        return self._evictor.tally.freed_bytes

    def limits_document(self) -> Document:
        """Return the part `limits` of the status."""
        limits = self._evictor.limits
        load = self._vfs.room.load()
        return {
            "capacity_bytes": limits.capacity_bytes,
            "min_free_bytes": limits.min_free_bytes,
            "min_free_is_goal": limits.min_free_is_goal,
            "max_files": limits.max_files,
            "low_mark": limits.low_mark,
            "high_mark": limits.high_mark,
            "policy": self._evictor.settings.policy,
            "evict_depth": self._evictor.settings.depth,
            "ttl_s": self.options.ttl_s,
            "auto_gc_s": self.options.auto_gc_s,
            "pressure": round(load.pressure(limits), 4),
            "owners": self._vfs.owners_state
            if self._evictor.settings.protects_owners
            else "unknown: owners are to be ignored",
        }

    def evictions_document(self) -> Document:
        """Return the part `evictions` of the status."""
        tally = self._evictor.tally
        last = None
        if tally.last is not None:
            time_ns, path, reason = tally.last
            last = {"time_s": time_ns / _S, "path": os.fsdecode(path), "reason": reason}
        return {
            "units": tally.units,
            "bytes": tally.freed_bytes,
            "files": tally.files,
            "last": last,
        }

    def facts(self, txn: Txn, ino: Ino) -> Document:
        """Return what accounts are to say of a unit beside its bytes."""
        unit = units.get(txn, ino)
        if unit is None:
            return {}
        return {
            "age_s": max(0, self._evictor.now_ns() - unit.last_use_ns) // _S,
            "pinned": bool(unit.flags & units.PINNED),
            "open_files": self._open_files().get(ino, 0),
            "owner": _owner(unit),
        }

    def _open_files(self) -> dict[Ino, int]:
        made, found = self._open
        if trio.current_time() > made + 1.0:
            found = self._evictor.planner.open_files()
            self._open = (trio.current_time(), found)
        return found

    def _pin(self, request: Mapping[str, object], change: Callable[[Ino], Ino]) -> Document:
        path, ino = self._inode(request)
        try:
            unit = change(ino)
        except FsError as error:
            where = path or "the mount point"
            raise BadRequest(f"{where} is above all units: name what is to stay") from error
        return {"path": path, "unit": self._path(unit)}

    def _set(self, request: Mapping[str, object]) -> Document:
        typed = {name: value for name, value in request.items() if name != "op"}
        values: dict[str, object] = {}
        for name, text in typed.items():
            option = LIVE.get(name)
            if option is None:
                raise BadRequest(f"{name}: want one of {', '.join(LIVE)}")
            try:
                values[name] = option.parse(str(text), name)
            except BadOption as error:
                raise BadRequest(str(error)) from None
        try:
            options = self.options.changed(values, dict.fromkeys(values, "dedupfs set"))
            host = self._store.statvfs()
            settings = settings_of(options, host.f_blocks * host.f_frsize)
        except BadOption as error:
            raise BadRequest(str(error)) from None
        self.options = options
        self._evictor.change_settings(settings)
        self._evictor.wake()
        shown = self.options.typed()
        return {"set": {name: shown[name] for name in typed}, "limits": self.limits_document()}

    async def _evict(self, request: Mapping[str, object]) -> Document:
        need = self._need(request.get("to"))
        if request.get("dry_run"):
            return self._plan_document(await self._evictor.look(need), need, done=False)
        before = self._store.index.counters.allocated_bytes
        made = await self._evictor.evict(lambda: self._evictor.plan(need))
        document = self._plan_document(made, need, done=True)
        document["freed_bytes"] = max(0, before - self._store.index.counters.allocated_bytes)
        return document

    def _need(self, to: object) -> Need:
        load = self._vfs.room.load()
        limits = self._evictor.limits
        if to is None:
            if not load.parts(limits):
                raise BadRequest("evict: this mount has no limit: say how far with --to SIZE")
            return load.need(limits, limits.low_mark)
        if not isinstance(to, int) or to < 0:
            raise BadRequest("evict: want a size of 0 or more in `to`")
        return Need(max(0, self._store.index.counters.allocated_bytes - to))

    async def _gc(self, request: Mapping[str, object]) -> Document:
        if request.get("dry_run"):
            return self._plan_document(await self._evictor.plan_dead(), None, done=False)
        before = self._store.index.counters.allocated_bytes
        made = await self._evictor.evict(self._evictor.plan_dead)
        document = self._plan_document(made, None, done=True)
        document["freed_bytes"] = max(0, before - self._store.index.counters.allocated_bytes)
        return document

    def _plan_document(self, plan: Plan, need: Need | None, *, done: bool) -> Document:
        room = _LISTED_BYTES
        entries: list[Document] = []
        for group, reason in plan.groups:
            path = plan.paths.get(group.units[-1], "")
            entry: Document = {
                "path": path,
                "frees_bytes": group.frees_bytes,
                "files": group.frees_files,
                "reason": reason,
                "with": [plan.paths.get(ino, "") for ino in group.units[:-1]],
            }
            room -= len(json.dumps(entry))
            if room < 0:
                break
            entries.append(entry)
        protected: list[Document] = []
        for ino, why in plan.protected:
            entry = {"path": plan.paths.get(ino, ""), "why": why}
            room -= len(json.dumps(entry))
            if room < 0:
                break
            protected.append(entry)
        return {
            "done": done,
            "needs_bytes": need.size if need else 0,
            "needs_files": need.files if need else 0,
            "frees_bytes": plan.frees_bytes,
            "units": sum(len(group.units) for group, _ in plan.groups),
            "is_enough": not plan.left,
            "plan": entries,
            "protected": protected,
            "passed_over": [plan.paths.get(ino, "") for ino in plan.passed_over[:100]],
        }

    def _why(self, request: Mapping[str, object]) -> Document:
        try:
            path, ino = self._inode(request)
        except BadRequest:
            return self._why_gone(_text(request, "path"))
        with self._store.index.read() as txn:
            unit = self._vfs.unit_of(txn, ino)
            found = units.get(txn, unit) if unit is not None else None
        if unit is None or found is None:
            return {"path": path, "state": "above", "unit": None}
        busy = self._evictor.planner.busy()
        self._evictor.planner.find_dead_owners()
        with self._store.index.read() as txn:
            found = units.get(txn, unit) or found
            before = units.position(txn, found, unit, _POSITION_MAX)
        return {
            "path": path,
            "state": "kept",
            "unit": self._path(unit),
            "why": self._evictor.planner.why_kept(unit, found, busy),
            "is_open": unit in busy,
            "pinned": bool(found.flags & units.PINNED),
            "owner": _owner(found),
            "position": None if found.flags & units.PINNED else before + 1,
            "queue": planning.QUEUE_NAMES[found.queue],
            "hits": found.hits,
            "frees_bytes": self._evictor.planner.frees_alone(unit),
            "age_s": max(0, self._evictor.now_ns() - found.last_use_ns) // _S,
            "pressure": round(self._vfs.room.load().pressure(self._evictor.limits), 4),
        }

    def _why_gone(self, path: str) -> Document:
        parts = os.fsencode(path).split(b"/")
        with self._store.index.read() as txn:
            for count in range(1, len(parts) + 1):
                found = units.last_eviction(txn, b"/".join(parts[:count]))
                if found is not None:
                    return {
                        "path": path,
                        "state": "evicted",
                        "unit": os.fsdecode(found.path),
                        "why": found.reason,
                        "time_s": found.time_ns / _S,
                        "freed_bytes": found.freed_bytes,
                        "files": found.files,
                    }
        return {"path": path, "state": "unknown", "unit": None}

    def _inode(self, request: Mapping[str, object]) -> tuple[str, Ino]:
        path = _text(request, "path")
        with self._store.index.read() as txn:
            try:
                return path, namespace.at_path(txn, os.fsencode(path))
            except NoSuchName:
                raise BadRequest(f"{path}: no such file or folder") from None

    def _path(self, ino: Ino) -> str:
        with self._store.index.read() as txn:
            return os.fsdecode(namespace.path_of(txn, ino) or b"")


async def _guarded(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except (DedupfsError, OSError) as error:
        log.warning("eviction: %s", error)


def _owner(unit: Unit) -> Document | None:
    if not unit.owner_pid:
        return None
    return {"pid": unit.owner_pid, "alive": not unit.orphaned_ns}


def _text(request: Mapping[str, object], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"want a text in `{name}`")
    return value.strip("/")
