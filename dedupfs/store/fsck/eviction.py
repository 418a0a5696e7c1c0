"""Whether eviction's tables agree with the names, and with one another."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dedupfs.core.format import QUEUED, U64, Unit
from dedupfs.core.policies import MAIN
from dedupfs.core.types import Ino
from dedupfs.store import namespace, units
from dedupfs.store.fsck.findings import Problem
from dedupfs.store.fsck.rows import deletion, sound

if TYPE_CHECKING:
    from dedupfs.store.txn import Txn


def check(txn: Txn) -> list[Problem]:
    """Check that what names lead to are the units, each in its queues, and nothing else."""
    layout = units.layout(txn)
    if layout is None:
        return []  # made at the next start
    depth = layout[0]
    wanted = set(units.named(txn, units.containers(txn, depth), depth))
    found: list[Problem] = []
    queued: set[bytes] = set()
    main = 0
    for key, value in sound(txn, "units"):
        ino = Ino(U64.unpack(key)[0])
        unit = Unit.unpack(value)
        main += unit.queue == MAIN
        if ino in wanted:
            wanted.discard(ino)
            queued.update(units.keys(ino, unit))
        else:
            fix = partial(units.remove, ino=ino)
            found.append(Problem("unit", f"inode {ino} is noted as a unit and is none", fix=fix))
    for ino in sorted(wanted):
        if namespace.find_inode(txn, ino) is not None:
            detail = f"unit {ino} is not noted: made at the next start"
            found.append(Problem("unit", detail, ino=ino, fix=units.unset_layout))
    found += _check_queues(txn, queued)
    if not found and units.main_count(txn) != main:
        detail = f"{units.main_count(txn)} units are said to be in the main queue, {main} are"
        found.append(Problem("unit", detail, fix=units.unset_layout))
    return found


def _check_queues(txn: Txn, wanted: set[bytes]) -> list[Problem]:
    found: list[Problem] = []
    for key, _value in sound(txn, "queue"):
        if key in wanted:
            wanted.discard(key)
            continue
        detail = f"queue {key[0]} has a row for inode {QUEUED.unpack(key)[2]} that no unit has"
        found.append(Problem("unit", detail, fix=deletion("queue", key)))
    for key in sorted(wanted):
        queue, _order, ino = QUEUED.unpack(key)
        fix = partial(_put, key=key)
        found.append(Problem("unit", f"unit {ino} is missing in queue {queue}", fix=fix))
    return found


def _put(txn: Txn, *, key: bytes) -> None:
    txn.put("queue", key, b"")
