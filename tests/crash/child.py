"""A process that works on a store through Vfs until it is stopped: run as a program.

`child.py STORE LOG SEED MUTANT SECONDS LIFE`, both in seconds. LOG gets two bytes an event, in the order in which they happened:
the actor and BEGUN or DONE; "*" and "R" when the process gave up the store, as a kill would each LIFE, and
opened it anew. All is one thread, but fsync and the checkpoint under it wait in a worker.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import trio

from crash.acts import SMALL_SIZES, Act, Script
from crash.mutants import MUTANTS
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import index, writer
from dedupfs.store.store import Store, remove_files
from dedupfs.vfs.attributes import Owner, SetAttr
from dedupfs.vfs.vfs import Vfs

if TYPE_CHECKING:
    from collections.abc import Callable

ACTORS = "abc"
BEGUN, DONE = "(", ")"
REOPENED = "*R"
OWNER = Owner(0, 0)
FOLD_CHANGES = 1500
# Files are small here, and yet some are to be cut ahead and placed after the answer.
WINDOW_BYTES = 64 << 10
# Behind these a free range is punched at once, if it may be: the daemon may do so at any moment.
_FREEING = {"unlink", "truncate", "rename"}


def script_of(seed: str, generation: int, actor: str) -> Script:
    return Script(folder_of(seed, generation, actor), SMALL_SIZES)


def folder_of(seed: str, generation: int, actor: str) -> str:
    return f"{seed}-{generation}{actor}"


class Player:
    """Plays a script against a Vfs."""

    def __init__(self, vfs: Vfs, folder: str) -> None:
        self.vfs = vfs
        self._folder = folder
        self._handles: dict[int, tuple[int, Ino]] = {}

    def find(self, path: str) -> Ino:
        ino = ROOT_INO
        for name in (self._folder + path).split("/"):
            ino = self._look(ino, name.encode())
        return ino

    def place(self, path: str) -> tuple[Ino, bytes]:
        """Return parent and name."""
        parent, _, name = path.rpartition("/")
        return (self.find(parent), name.encode()) if path else (ROOT_INO, self._folder.encode())

    def _look(self, parent: Ino, name: bytes) -> Ino:
        found = self.vfs.lookup(parent, name)
        self.vfs.forget([(found.ino, 1)])
        return found.ino

    async def play(self, act: Act) -> None:
        if act.kind == "fsync":
            await self.vfs.fsync(self._handles[act.handle][0])
        elif act.kind == "fsyncdir":
            handle = self.vfs.opendir(self.find(act.path))
            try:
                await self.vfs.fsyncdir(handle)
            finally:
                self.vfs.releasedir(handle)
        else:
            _PLAYS[act.kind](self, act)

    def create(self, act: Act) -> None:
        flags = os.O_RDWR | os.O_EXCL
        made, handle = self.vfs.create(*self.place(act.path), 0o600, OWNER, flags)
        self._handles[act.handle] = handle, made.ino

    def open(self, act: Act) -> None:
        ino = self.find(act.path)
        self.vfs.count_lookup(ino)
        self._handles[act.handle] = self.vfs.open(ino, os.O_RDWR), ino

    def close(self, act: Act) -> None:
        handle, ino = self._handles.pop(act.handle)
        self.vfs.flush(handle)
        self.vfs.release(handle)
        self.vfs.forget([(ino, 1)])

    def mkdir(self, act: Act) -> None:
        made = self.vfs.mkdir(*self.place(act.path), act.number, OWNER)
        self.vfs.forget([(made.ino, 1)])

    def symlink(self, act: Act) -> None:
        made = self.vfs.symlink(*self.place(act.path), act.other.encode(), OWNER)
        self.vfs.forget([(made.ino, 1)])

    def link(self, act: Act) -> None:
        ino = self.find(act.path)
        self.vfs.link(ino, *self.place(act.other))
        self.vfs.forget([(ino, 1)])

    def setattr(self, act: Act, wanted: SetAttr) -> None:
        self.vfs.setattr(self.find(act.path), wanted)


_PLAYS: dict[str, Callable[[Player, Act], object]] = {
    "create": Player.create,
    "open": Player.open,
    "write": lambda p, a: p.vfs.write(p._handles[a.handle][0], a.number, a.data),
    "close": Player.close,
    "rename": lambda p, a: p.vfs.rename(*p.place(a.path), *p.place(a.other)),
    "unlink": lambda p, a: p.vfs.unlink(*p.place(a.path)),
    "rmdir": lambda p, a: p.vfs.rmdir(*p.place(a.path)),
    "link": Player.link,
    "symlink": Player.symlink,
    "mkdir": Player.mkdir,
    "truncate": lambda p, a: p.setattr(a, SetAttr(size=a.number)),
    "setxattr": lambda p, a: p.vfs.setxattr(p.find(a.path), a.other.encode(), a.data),
    "removexattr": lambda p, a: p.vfs.removexattr(p.find(a.path), a.other.encode()),
    "chmod": lambda p, a: p.setattr(a, SetAttr(mode=a.number)),
    "utime": lambda p, a: p.setattr(a, SetAttr(atime_ns=a.number, mtime_ns=a.number)),
}


class Child:
    """The process: generations of actors, each over the store as the last left it."""

    def __init__(self, path: Path, log: Path, seed: str, life_s: float) -> None:
        self._path = path
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._seed = seed
        self._life_s = life_s
        self._random = random.Random(seed)
        self._after: list[Callable[[], None]] = []

    def note(self, event: str) -> None:
        os.write(self._log, event.encode())

    async def run(self) -> None:
        generation = 0
        while True:
            store = Store.open(self._path)
            vfs = Vfs(store, clock=time.time_ns)
            self._after.clear()
            vfs.settle_after(self._after.append)
            if generation:
                self.note(REOPENED)
            with trio.move_on_after(self._life_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._maintain, store, vfs)
                    for actor in ACTORS:
                        nursery.start_soon(self._act, store, vfs, generation, actor)
            # As kill -9 does: nothing is flushed, nothing closed in order.
            store.index.close()
            store._lock.release()
            generation += 1

    async def _act(self, store: Store, vfs: Vfs, generation: int, actor: str) -> None:
        script = script_of(self._seed, generation, actor)
        player = Player(vfs, folder_of(self._seed, generation, actor))
        while True:
            act = script.next()
            self.note(actor + BEGUN)
            await player.play(act)
            self.note(actor + DONE)
            while self._after:  # as the adapter, when a request is answered
                self._after.pop()()
            script.apply(act)
            if act.kind in _FREEING:
                self._reclaim(store)
            await trio.lowlevel.checkpoint()

    async def _maintain(self, store: Store, vfs: Vfs) -> None:
        """What the daemon does, more often."""
        while True:
            await trio.sleep(self._random.uniform(0, 0.2))
            if self._random.random() < 0.5:
                self.note("s" + BEGUN)
                await vfs.sync()
                self.note("s" + DONE)
            self._reclaim(store)

    def _reclaim(self, store: Store) -> None:
        doomed, _more = store.reclaim()
        remove_files(doomed)


def main() -> None:
    path, log, seed, mutant, seconds, life = sys.argv[1:]
    index._FOLD_CHANGES = FOLD_CHANGES
    writer.PENDING_BYTES = WINDOW_BYTES  # type: ignore[misc]
    MUTANTS[mutant].apply()
    child = Child(Path(path), Path(log), seed, float(life))

    async def limited() -> None:
        with trio.move_on_after(float(seconds)):
            await child.run()

    trio.run(limited)
    os._exit(0)  # nothing is closed in order


if __name__ == "__main__":
    main()
