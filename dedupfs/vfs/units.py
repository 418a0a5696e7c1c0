"""Which names are units, and when they were used: keeps the rows of eviction as names come and go.

A unit is what stands `depth` names below the root, or above that and is no directory. A file with
several such names is one unit. Uses are noted in memory, and written now and then.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import stat
from typing import TYPE_CHECKING, Final, TypeVar

from dedupfs.core.format import Unit
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import namespace, units
from dedupfs.vfs.owners import NOBODY, Owners, Process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dedupfs.core.format import Inode
    from dedupfs.core.policies import Policy
    from dedupfs.store.namespace import Dirent
    from dedupfs.store.store import Store
    from dedupfs.store.txn import Txn
    from dedupfs.vfs.inodes import Change

log = logging.getLogger(__name__)

T = TypeVar("T", int, tuple[int, int])

_ROWS: Final = 5000  # in one transaction
_TOUCHED_MAX: Final = 65_536
# Who makes a file often reads it at once: that is no sign of a second use.
_FRESH_NS: Final = 60 * 10**9


class Units:
    """The units of a mount. `touched` has when files were used, by inode."""

    def __init__(self, store: Store, *, depth: int, policy: Policy) -> None:
        """Bring the rows in line with `depth` and `policy`, if they were made for others."""
        self._index = store.index
        self.depth = depth
        self.policy = policy
        self.owners = Owners()
        self.touched: dict[Ino, int] = {}
        # By directory: when something was made in it, and by which thread.
        self._grown: dict[Ino, tuple[int, int]] = {}
        self.containers: dict[Ino, int] = {ROOT_INO: 0}

    def start(self, now_ns: int) -> None:
        """Learn the directories above the units; make missing rows, once."""
        with self._index.read() as txn:
            self.containers = units.containers(txn, self.depth)
            is_made = units.layout(txn) == (self.depth, self.policy.name)
        if not is_made:
            self._make_rows(now_ns)

    def _make_rows(self, now_ns: int) -> None:
        made = gone = 0
        with self._index.read() as txn:
            wanted = set(units.named(txn, self.containers, self.depth))
            known = {Ino(int.from_bytes(key, "big")) for key, _ in txn.scan("units", b"")}
            before = units.layout(txn)
        for batch in _batches(wanted | known):
            with self._index.write() as txn:
                for ino in batch:
                    old = units.get(txn, ino)
                    if ino not in wanted:
                        units.remove(txn, ino)
                        gone += 1
                    elif old is None:
                        self._add(txn, ino, namespace.get_inode(txn, ino), now_ns, NOBODY)
                        made += 1
                    elif before is None or before[1] != self.policy.name:
                        place = self.policy.insert(old.last_use_ns, was_evicted=old.hits > 0)
                        units.put(txn, ino, old, units.placed(old, place))
        with self._index.write() as txn:
            units.set_layout(txn, self.depth, self.policy.name)
            units.count_main(txn)
        if made or gone:
            log.info(
                "eviction: %d units at depth %d noted, %d others forgotten", made, self.depth, gone
            )

    def set_policy(self, policy: Policy, now_ns: int) -> None:
        """Go on by another policy: all units get a place of it."""
        self.policy = policy
        self.start(now_ns)

    def is_unit(self, parent: Ino, inode: Inode) -> bool:
        """Tell whether a name in `parent` for the inode is a unit."""
        at = self.containers.get(parent)
        return at is not None and (at + 1 == self.depth or not stat.S_ISDIR(inode.mode))

    def made(self, change: Change, parent: Ino, name: bytes, ino: Ino) -> None:
        """Enter a new inode, whose first name is `name` in container `parent`."""
        inode = change.inode(ino)
        if not self.is_unit(parent, inode):
            change.new_containers.append((ino, self.containers[parent] + 1))
            return
        owner = NOBODY
        if stat.S_ISDIR(inode.mode):
            owner = self.owners.of_thread(change.caller_tid)
        path = name
        if self.policy.remembers and parent != ROOT_INO:
            path = (namespace.path_of(change.txn, parent) or b"") + b"/" + name
        self._add(change.txn, ino, inode, change.now_ns, owner, path)

    def _add(
        self, txn: Txn, ino: Ino, inode: Inode, now_ns: int, owner: Process, path: bytes = b""
    ) -> None:
        used = max(0, min(now_ns, max(inode.atime_ns, inode.mtime_ns)))
        came_back = self.policy.remembers and units.was_evicted(txn, path)
        queue, order, hits = self.policy.insert(used, was_evicted=came_back)
        unit = Unit(
            queue, order, hits, last_use_ns=used, made_ns=now_ns,
            owner_pid=owner.pid, owner_start=owner.start, owner_boot=owner.boot,
        )  # fmt: skip
        units.add(txn, ino, unit)

    def settle(self, change: Change, inos: Iterable[Ino]) -> None:
        """Bring the rows of inodes that got or lost a name in a container in line with that."""
        txn = change.txn
        for ino in inos:
            inode = change.find_inode(ino)
            names = namespace.names_of(txn, ino) if inode is not None else []
            is_unit = inode is not None and any(self.is_unit(at, inode) for at, _ in names)
            known = units.get(txn, ino)
            if is_unit and known is None and inode is not None:
                self._add(txn, ino, inode, change.now_ns, NOBODY)
            elif not is_unit and known is not None:
                units.remove(txn, ino)
            self._settle_container(change, ino, inode, names)

    def _settle_container(
        self, change: Change, ino: Ino, inode: Inode | None, names: list[tuple[Ino, Dirent]]
    ) -> None:
        """Rare: with a depth above 1, a directory that led to units has moved."""
        if self.depth == 1:
            return
        at = self.containers.get(ino)
        above = self.containers.get(names[0][0]) if names else None
        if inode is None or not stat.S_ISDIR(inode.mode):
            should_be = None
        else:
            should_be = above + 1 if above is not None and above + 1 < self.depth else None
        if should_be is None and at is not None and (inode is None or not names):
            change.gone_containers.append(ino)
        elif at != should_be:
            # Everything below stands at another depth now.
            units.unset_layout(change.txn)
            change.moves_containers = True

    def follow(self, change: Change) -> None:
        """Take note of a committed change of the directories above units."""
        self.containers.update(change.new_containers)
        for ino in change.gone_containers:
            self.containers.pop(ino, None)
        if change.moves_containers:
            self.start(change.now_ns)

    def touch(self, ino: Ino, now_ns: int) -> None:
        """Note a use; it is written later."""
        self.touched[ino] = now_ns
        if len(self.touched) > _TOUCHED_MAX:
            self.flush()

    def grew(self, parent: Ino, now_ns: int, tid: int) -> None:
        """Note that a thread made something in a directory: younger for that, but not used again."""
        if parent not in self.containers:
            self._grown[parent] = now_ns, tid

    def replaced(self, change: Change, old: Ino, new: Ino) -> None:
        """Let an inode that took over all names of another stand in its place."""
        known = units.get(change.txn, old)
        if known is not None:
            units.remove(change.txn, old)
            units.add(change.txn, new, known)

    def flush(self, limit: int = _TOUCHED_MAX) -> bool:
        """Write up to `limit` of the uses that were noted; return whether there are more."""
        if not (self.touched or self._grown):
            return False
        grown, touched = _some(self._grown, limit), _some(self.touched, limit)
        above: dict[Ino, Ino | None] = {}
        with self._index.write() as txn:
            for ino, (used_ns, tid) in self._latest(txn, grown, above).items():
                self._use(txn, ino, used_ns, is_hit=False)
                self._adopt(txn, ino, tid)
            for ino, used_ns in self._latest(txn, touched, above).items():
                self._use(txn, ino, used_ns, is_hit=True)
        for ino in grown:
            self._grown.pop(ino, None)
        for ino in touched:
            self.touched.pop(ino, None)
        return bool(self.touched or self._grown)

    def _latest(self, txn: Txn, used: dict[Ino, T], above: dict[Ino, Ino | None]) -> dict[Ino, T]:
        """Return the greatest of what is noted of the inodes in a unit, by unit."""
        found: dict[Ino, T] = {}
        for ino, noted in used.items():
            for unit in self.units_of(txn, ino, above):
                found[unit] = max(noted, found.get(unit, noted))
        return found

    def _adopt(self, txn: Txn, ino: Ino, tid: int) -> None:
        """Make who writes in a folder its owner if its maker has ended, as `mkdir` in a script has."""
        old = units.get(txn, ino)
        if old is None or not self.owners.is_dead(old):
            return
        owner = self.owners.of_thread(tid)
        if owner.pid:
            new = dataclasses.replace(
                old, owner_pid=owner.pid, owner_start=owner.start, owner_boot=owner.boot,
                orphaned_ns=0,
            )  # fmt: skip
            units.put(txn, ino, old, new)

    def _use(self, txn: Txn, ino: Ino, used_ns: int, *, is_hit: bool) -> None:
        old = units.get(txn, ino)
        if old is None:
            return
        place = units.place_of(old)
        if is_hit and used_ns > old.made_ns + _FRESH_NS:
            place = self.policy.use(place)
        new = dataclasses.replace(
            units.placed(old, place), last_use_ns=max(used_ns, old.last_use_ns)
        )
        units.put(txn, ino, old, new)

    def units_of(self, txn: Txn, ino: Ino, above: dict[Ino, Ino | None]) -> set[Ino]:
        """Return the units that hold a name of `ino`; `above` remembers the way up of directories."""
        found: set[Ino] = set()
        for _key, value in txn.scan("parents", _key_of(ino), _key_of(Ino(ino + 1))):
            parent = Ino(int.from_bytes(value, "big"))
            unit = ino if parent in self.containers else self._unit_above(txn, parent, above)
            if unit is not None:
                found.add(unit)
        return found

    def _unit_above(self, txn: Txn, folder: Ino, above: dict[Ino, Ino | None]) -> Ino | None:
        """Return the unit that directory `folder` is, or is in."""
        way: list[Ino] = []
        at = folder
        while at not in above and len(way) <= namespace.DEPTH_MAX:
            inode = namespace.find_inode(txn, at)
            way.append(at)
            if inode is None or at == ROOT_INO:
                above[at] = None
            elif inode.parent in self.containers:
                above[at] = at
            else:
                at = Ino(inode.parent)
                continue
            break
        unit = above.get(at)
        above.update(dict.fromkeys(way, unit))
        return unit

    def of_path(self, txn: Txn, ino: Ino) -> Ino | None:
        """Return the unit that `ino`, a file or a directory, is or is in; None above all units."""
        if units.get(txn, ino) is not None:
            return ino
        inode = namespace.find_inode(txn, ino)
        if inode is None or ino in self.containers:
            return None
        above: dict[Ino, Ino | None] = {}
        if stat.S_ISDIR(inode.mode):
            return self._unit_above(txn, ino, above)
        return min(self.units_of(txn, ino, above), default=None)

    def names_of(self, txn: Txn, ino: Ino) -> list[tuple[Ino, Dirent]]:
        """Return the names that are the unit."""
        return [(at, entry) for at, entry in namespace.names_of(txn, ino) if at in self.containers]


def _some(noted: dict[Ino, T], limit: int) -> dict[Ino, T]:
    return dict(itertools.islice(noted.items(), limit))


def _batches(inos: set[Ino]) -> Iterable[list[Ino]]:
    left = sorted(inos)
    for start in range(0, len(left), _ROWS):
        yield left[start : start + _ROWS]


def _key_of(ino: Ino) -> bytes:
    return ino.to_bytes(8, "big") + bytes(8)
