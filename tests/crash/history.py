"""What a child logged, and whether a store holds one of the states that the log allows.

Nothing but whole states is allowed: those after the last acknowledged sync, in the order in which
things happened, over all actors at once.
"""

from __future__ import annotations

import os
import signal
import stat
import traceback
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from crash.child import BEGUN, DONE, REOPENED, folder_of, script_of
from crash.compare import Found, difference
from dedupfs.core.format import SEGMENT, U64
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store.segments import SegmentRow
from dedupfs.store.store import Store
from dedupfs.vfs.vfs import Vfs
from store.invariants import check, reclaim_all

if TYPE_CHECKING:
    from pathlib import Path

    from crash.acts import Act, Node, Script

SYNCER = "s"
EXTENT_TREE_BYTES = 4 << 12
_WAITING = ("fsync", "fsyncdir")


class Lost(AssertionError):
    """The store does not hold a state it may be in."""

    @property
    def short(self) -> str:
        return str(self).strip().splitlines()[-1][:110]


class History:
    """A log being replayed."""

    def __init__(self, seed: str, log: str) -> None:
        self.events = [log[at : at + 2] for at in range(0, len(log) - len(log) % 2, 2)]
        self._seed = seed
        self._generation = 0
        self._scripts: dict[str, Script] = {}  # by folder
        self._running: dict[str, Act] = {}  # by folder
        self._at = 0

    @cached_property
    def durable(self) -> int:
        """How many events are surely durable: all before the last acknowledged sync began."""
        history = History(self._seed, "")
        history.events = self.events
        begun: dict[str, int] = {}
        durable = 0
        for at, event in enumerate(self.events):
            actor = event[0]
            if event[1] == BEGUN:
                begun[actor] = at + 1
            is_sync = history.step()
            if event[1] == DONE and is_sync:
                durable = max(durable, begun[actor])
        return durable

    def step(self) -> bool:
        """Take in one event; return whether it belongs to a sync."""
        event = self.events[self._at]
        self._at += 1
        if event == REOPENED:
            self._generation += 1
            self._running.clear()
            return False
        if event[0] == SYNCER:
            return True
        folder = folder_of(self._seed, self._generation, event[0])
        if folder not in self._scripts:
            self._scripts[folder] = script_of(self._seed, self._generation, event[0])
        script = self._scripts[folder]
        if event[1] == BEGUN:
            act = self._running[folder] = script.next()
            if act.kind in _WAITING:  # it flushes at once, then waits
                script.apply(act)
            return act.kind in _WAITING
        act = self._running.pop(folder)
        if act.kind not in _WAITING:
            script.apply(act)
        return act.kind in _WAITING

    def finish(self) -> bool:
        """Take the act that was under way as done; return whether there was one."""
        for folder, act in list(self._running.items()):
            if act.kind not in _WAITING:
                self._scripts[folder].apply(act)
                del self._running[folder]
                return True
        return False

    def names(self) -> dict[str, Node]:
        return {
            folder + path: node
            for folder, script in self._scripts.items()
            for path, node in script.names.items()
        }

    def explain(self, have: dict[str, Found]) -> int:
        """Return how many events have happened in `have`; raise Lost when no state fits."""
        durable = self.durable
        while self._at < durable:
            self.step()
        first = best = difference(self.names(), have)
        while best and self._at < len(self.events):
            self.step()
            best = difference(self.names(), have)
        if best and self.finish():
            best = difference(self.names(), have)
        if best:
            raise Lost(
                f"no state after event {durable} of {len(self.events)} fits; that one: {first}; "
                f"the last: {best}"
            )
        return self._at


def look(store: Store, vfs: Vfs) -> dict[str, Found]:
    """Read all files, by path from the root."""
    found: dict[str, Found] = {}
    todo: list[tuple[str, Ino]] = [("", ROOT_INO)]
    while todo:
        path, directory = todo.pop()
        handle = vfs.opendir(directory)
        for entry in list(vfs.readdir(handle, 0))[2:]:
            below = f"{path}/{entry.name.decode()}".lstrip("/")
            ino = entry.attributes.ino
            found[below] = _found(store, vfs, ino)
            if found[below].kind == "dir":
                todo.append((below, ino))
        vfs.releasedir(handle)
    return found


def _found(store: Store, vfs: Vfs, ino: Ino) -> Found:
    inode = vfs.getattr(ino).inode
    is_file, is_link = stat.S_ISREG(inode.mode), stat.S_ISLNK(inode.mode)
    return Found(
        "file" if is_file else "link" if is_link else "dir",
        ino, inode.nlink, stat.S_IMODE(inode.mode), inode.mtime_ns,
        content=bytes(store.read(ino, 0, inode.size).run()) if is_file and inode.size else b"",
        target=inode.target.decode(),
        xattrs={name.decode(): vfs.getxattr(ino, name) for name in vfs.listxattr(ino, privileged=True)},
    )  # fmt: skip


class Survival(NamedTuple):
    """In events: how many had to survive, and how many did."""

    durable: int
    survived: int


def verify(path: Path, history: History, *, close: bool, is_copy: bool = False) -> Survival:
    """Open the store, check it and compare.

    What a copy takes on disk is not looked at. Raises Lost, whatever is wrong. All of it happens in
    a process of its own: LMDB dies of a signal when its pages are not what it wrote.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, _outcome(path, history, is_copy=is_copy, close=close).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        outcome = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise Lost(f"the process dies of {signal.Signals(os.WTERMSIG(status)).name}")
    numbers = outcome.split(" ")
    if len(numbers) == len(Survival._fields) and all(number.isdigit() for number in numbers):
        return Survival(*map(int, numbers))
    raise Lost(outcome)


def _outcome(path: Path, history: History, *, close: bool, is_copy: bool) -> str:
    """Return two numbers, or what is wrong."""
    try:
        store = Store.open(path)
        survived = _verify(store, history, is_copy=is_copy, close=close)
    except Lost as error:
        return f"{error}"[:4000]
    except Exception:  # noqa: BLE001
        return traceback.format_exc()[-4000:]
    return f"{history.durable} {survived}"


def _verify(store: Store, history: History, *, is_copy: bool, close: bool) -> int:
    vfs = Vfs(store, clock=lambda: 1)
    survived = history.explain(look(store, vfs))
    reclaim_all(store)
    check_whole(store, is_copy=is_copy)
    if close:
        vfs.close()
        store.close()
    else:
        abandon(store)
    return survived


def check_whole(store: Store, *, is_copy: bool = False) -> None:
    """Fail when the store's tables disagree, or when it holds space that nothing would free."""
    try:
        check(store)
    except AssertionError as error:
        if "allocated bytes" not in str(error):
            raise
        if not is_copy:
            _check_space(store)


def _check_space(store: Store) -> None:
    """Fail when the disk holds more than the index knows: nothing would ever free it."""
    with store.index.read() as txn:
        rows = {U64.unpack(key)[0]: SegmentRow(*SEGMENT.unpack(value))
                for key, value in txn.scan("segments", b"")}  # fmt: skip
    for segment, row in rows.items():
        status = store.path.joinpath("segments", f"{segment:016x}").stat()
        held = status.st_blocks * 512
        # Less is what XFS does: it gives preallocated blocks back when a file is not used any more.
        # A little more is what ext4 does: it counts a file's extent tree when it allocates, later.
        limit = row.allocated + EXTENT_TREE_BYTES
        assert held <= limit, f"segment {segment:x}: {held} held, {row}, {status}"


def abandon(store: Store) -> None:
    """Give a store up as a kill would."""
    store.index.close()
    store._lock.release()
