"""Rows of the tables that eviction decides by: units, their queues, and what was evicted.

A unit stands in USED by its last use, in its policy's queue if that is another, and in OWNED or DEAD
if a process made it. A pinned one stands in PINS alone. `units` is the truth: queue rows follow from it.
"""

from __future__ import annotations

import dataclasses
import itertools
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

import xxhash

from dedupfs.core.errors import Corrupt
from dedupfs.core.format import EVICTED, QUEUED, U32, U64, Unit
from dedupfs.core.policies import MAIN, USED, Place
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dedupfs.store.txn import Txn

OWNED: Final = 3  # by the process that made it: order is pid and start time
DEAD: Final = 4  # by when that process was found dead
PINS: Final = 5  # in no order
PINNED: Final = 1  # a flag
HISTORY_MAX: Final = 10_000
_LAYOUT: Final = b"units"
_MAIN: Final = b"main"
_GHOSTS_MIN: Final = 10
_START_MASK: Final = 0xFFFFFFFF


class Queued(NamedTuple):
    """A row of a queue."""

    key: bytes
    order: int
    ino: Ino


class Eviction(NamedTuple):
    """A row of the history."""

    time_ns: int
    freed_bytes: int
    files: int
    path: bytes
    reason: str


def get(txn: Txn, ino: Ino) -> Unit | None:
    """Return what is known of the unit; None when `ino` is none."""
    raw = txn.get("units", U64.pack(ino))
    return None if raw is None else Unit.unpack(raw)


def place_of(unit: Unit) -> Place:
    """Return the policy's part of it."""
    return Place(unit.queue, unit.order, unit.hits)


def placed(unit: Unit, place: Place) -> Unit:
    """Return it at another place."""
    return dataclasses.replace(unit, queue=place.queue, order=place.order, hits=place.hits)


def keys(ino: Ino, unit: Unit) -> list[bytes]:
    """Return the keys of the queue rows that follow from a unit's row."""
    if unit.flags & PINNED:
        return [QUEUED.pack(PINS, 0, ino)]
    found = [QUEUED.pack(USED, unit.last_use_ns, ino)]
    if unit.queue != USED:
        found.append(QUEUED.pack(unit.queue, unit.order, ino))
    if unit.orphaned_ns:
        found.append(QUEUED.pack(DEAD, unit.orphaned_ns, ino))
    elif unit.owner_pid:
        found.append(QUEUED.pack(OWNED, owner_order(unit), ino))
    return found


def owner_order(unit: Unit) -> int:
    """Return the place in OWNED: units of one process stand together."""
    return unit.owner_pid << 32 | unit.owner_start & _START_MASK


def add(txn: Txn, ino: Ino, unit: Unit) -> None:
    """Enter a new unit; looks nothing up."""
    if not txn.append("units", U64.pack(ino), unit.pack()):
        raise Corrupt(f"unit {ino} is there already")
    for key in keys(ino, unit):
        txn.append("queue", key, b"")
    if unit.queue == MAIN:
        _count_main(txn, 1)


def put(txn: Txn, ino: Ino, old: Unit, new: Unit) -> None:
    """Replace a unit's row, and its queue rows where they change."""
    txn.put("units", U64.pack(ino), new.pack())
    before, after = keys(ino, old), keys(ino, new)
    for key in after:
        if key not in before:
            txn.append("queue", key, b"")
    for key in before:
        if key not in after:
            txn.delete("queue", key)
    _count_main(txn, (new.queue == MAIN) - (old.queue == MAIN))


def remove(txn: Txn, ino: Ino) -> None:
    """Take a unit out, if it is one."""
    unit = get(txn, ino)
    if unit is None:
        return
    txn.delete("units", U64.pack(ino))
    for key in keys(ino, unit):
        txn.delete("queue", key)
    if unit.queue == MAIN:
        _count_main(txn, -1)


def main_count(txn: Txn) -> int:
    """Return how many units are in MAIN."""
    raw = txn.get("meta", _MAIN)
    return U64.unpack(raw)[0] if raw else 0


def count_main(txn: Txn) -> None:
    """Count the units in MAIN anew."""
    rows = txn.scan("queue", QUEUED.pack(MAIN, 0, 0), QUEUED.pack(MAIN + 1, 0, 0))
    txn.put("meta", _MAIN, U64.pack(sum(1 for _ in rows)))


def _count_main(txn: Txn, change: int) -> None:
    if change:
        txn.put("meta", _MAIN, U64.pack(max(0, main_count(txn) + change)))


def queued(txn: Txn, queue: int, after: bytes, limit: int) -> list[Queued]:
    """Return the next rows of a queue behind the key `after`, b"" for the first ones."""
    start = after + b"\0" if after else QUEUED.pack(queue, 0, 0)
    rows = txn.scan("queue", start, QUEUED.pack(queue + 1, 0, 0))
    found: list[Queued] = []
    for key, _value in itertools.islice(rows, limit):
        _queue, order, ino = QUEUED.unpack(key)
        found.append(Queued(key, order, Ino(ino)))
    return found


def owner_heads(txn: Txn) -> Iterator[Queued]:
    """Yield one unit of each process that is not known to be dead; rows may change meanwhile."""
    after = b""
    while rows := queued(txn, OWNED, after, 1):
        yield rows[0]
        after = QUEUED.pack(OWNED, rows[0].order, (1 << 64) - 1)


def of_owner(txn: Txn, order: int) -> list[Ino]:
    """Return the units of one process."""
    rows = txn.scan("queue", QUEUED.pack(OWNED, order, 0), QUEUED.pack(OWNED, order + 1, 0))
    return [Ino(QUEUED.unpack(key)[2]) for key, _value in rows]


def position(txn: Txn, unit: Unit, ino: Ino, limit: int) -> int:
    """Return how many units stand before it in its policy's queue, `limit` at most."""
    key = QUEUED.pack(unit.queue, unit.last_use_ns if unit.queue == USED else unit.order, ino)
    rows = txn.scan("queue", QUEUED.pack(unit.queue, 0, 0), key)
    return sum(1 for _ in itertools.islice(rows, limit))


def note_evicted(txn: Txn, eviction: Eviction) -> None:
    """Add to the history; the oldest rows go."""
    last = txn.floor("history", U64.pack((1 << 63) - 1))
    sequence = U64.unpack(last[0])[0] + 1 if last else 1
    value = EVICTED.pack(eviction.time_ns, eviction.freed_bytes, eviction.files, len(eviction.path))
    txn.put("history", U64.pack(sequence), value + eviction.path + eviction.reason.encode())
    txn.put("evicted", path_key(eviction.path), U64.pack(sequence))
    while txn.rows("history") > HISTORY_MAX:
        key, old = next(txn.scan("history", b""))
        txn.delete("history", key)
        path = unpack_eviction(old).path
        if txn.get("evicted", path_key(path)) == key:
            txn.delete("evicted", path_key(path))


def last_eviction(txn: Txn, path: bytes) -> Eviction | None:
    """Return when and why the unit of this path was evicted last, as far back as is known."""
    sequence = txn.get("evicted", path_key(path))
    raw = txn.get("history", sequence) if sequence is not None else None
    return unpack_eviction(raw) if raw is not None else None


def was_evicted(txn: Txn, path: bytes) -> bool:
    """Tell whether the unit of this path was among the last evicted, as many as are in MAIN.

    More ghosts than that, and all that is scanned twice would get into MAIN.
    """
    sequence = txn.get("evicted", path_key(path))
    if sequence is None:
        return False
    last = txn.floor("history", U64.pack((1 << 63) - 1))
    assert last is not None, "the row that `evicted` names, at least"
    after = U64.unpack(last[0])[0] - U64.unpack(sequence)[0]
    return bool(after < max(main_count(txn), _GHOSTS_MIN))


def path_key(path: bytes) -> bytes:
    """Return the key of `evicted`."""
    return xxhash.xxh3_128_digest(path)


def unpack_eviction(raw: bytes) -> Eviction:
    """Return the history row in `raw`; raise Corrupt when it is too short."""
    if len(raw) < EVICTED.size:
        raise Corrupt(f"eviction: {len(raw)} bytes, want at least {EVICTED.size}")
    time_ns, freed_bytes, files, length = EVICTED.unpack_from(raw)
    path = raw[EVICTED.size : EVICTED.size + length]
    reason = raw[EVICTED.size + length :].decode(errors="replace")
    return Eviction(time_ns, freed_bytes, files, path, reason)


def layout(txn: Txn) -> tuple[int, str] | None:
    """Return the depth and the policy the rows were made for; None: they are to be made."""
    raw = txn.get("meta", _LAYOUT)
    if raw is None or len(raw) < U32.size:
        return None
    return U32.unpack_from(raw)[0], raw[U32.size :].decode(errors="replace")


def set_layout(txn: Txn, depth: int, policy: str) -> None:
    """Note what the rows are made for now."""
    txn.put("meta", _LAYOUT, U32.pack(depth) + policy.encode())


def unset_layout(txn: Txn) -> None:
    """Let the next start look at all units anew."""
    txn.delete("meta", _LAYOUT)


def containers(txn: Txn, depth: int) -> dict[Ino, int]:
    """Return the directories that hold units, or lead to them, with their depth below the root."""
    found = {ROOT_INO: 0}
    level = [ROOT_INO]
    for below in range(1, depth):
        level = [
            entry.ino
            for parent in level
            for entry in namespace.entries(txn, parent, start=0, stop=(1 << 64) - 1)
            if _is_directory(txn, entry.ino)
        ]
        found.update(dict.fromkeys(level, below))
    return found


def named(txn: Txn, known: dict[Ino, int], depth: int) -> Iterator[Ino]:
    """Yield the units that names lead to, some twice; names must not change meanwhile."""
    for parent, at in known.items():
        for entry in namespace.entries(txn, parent, start=0, stop=(1 << 64) - 1):
            if at + 1 == depth or not _is_directory(txn, entry.ino):
                yield entry.ino


def _is_directory(txn: Txn, ino: Ino) -> bool:
    inode = namespace.find_inode(txn, ino)
    return inode is not None and stat.S_ISDIR(inode.mode)
