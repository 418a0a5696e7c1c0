"""A Vfs over a real store, with a clock that ticks and short ways to say common things."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from dedupfs.core.errors import NoSuchName
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store.store import Store
from dedupfs.vfs.attributes import Owner
from dedupfs.vfs.vfs import Vfs
from store.invariants import check

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.vfs.attributes import Attributes

USER = Owner(1000, 100)
START_NS = 1_700_000_000 * 10**9


class World:
    """One store and the Vfs on it; `reopen` and `crash` end and begin it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ns = START_NS
        self.store: Store
        self.vfs: Vfs
        self.open()

    def clock(self) -> int:
        """Return a later time at each call."""
        self.now_ns += 1_000_000
        return self.now_ns

    def open(self) -> None:
        self.store = Store.open(self.path)
        self.vfs = Vfs(self.store, clock=self.clock)

    def close(self) -> None:
        self.vfs.close()
        check(self.store)
        self.store.close()

    def reopen(self) -> None:
        """Unmount and mount again: handles and lookups are gone."""
        self.close()
        self.open()

    def crash(self) -> None:
        """Start anew on what is committed, as after kill -9."""
        self.store.index.close()
        self.store._lock.release()
        self.open()

    def create(self, name: bytes, data: bytes = b"", parent: Ino = ROOT_INO) -> Ino:
        """Make a closed file that the kernel does not remember."""
        made, handle = self.vfs.create(parent, name, 0o644, USER, os.O_RDWR)
        if data:
            self.vfs.write(handle, 0, data)
        self.vfs.flush(handle)
        self.vfs.release(handle)
        self.vfs.forget([(made.ino, 1)])
        return made.ino

    def mkdir(self, name: bytes, parent: Ino = ROOT_INO) -> Ino:
        made = self.vfs.mkdir(parent, name, 0o755, USER)
        self.vfs.forget([(made.ino, 1)])
        return made.ino

    def look(self, name: bytes, parent: Ino = ROOT_INO) -> Attributes:
        """Look a name up, and let the kernel forget it at once."""
        found = self.vfs.lookup(parent, name)
        self.vfs.forget([(found.ino, 1)])
        return found

    def exists(self, name: bytes, parent: Ino = ROOT_INO) -> bool:
        try:
            self.look(name, parent)
        except NoSuchName:
            return False
        return True

    def names(self, directory: Ino = ROOT_INO) -> list[bytes]:
        handle = self.vfs.opendir(directory)
        found = [entry.name for entry in self.vfs.readdir(handle, 0)]
        self.vfs.releasedir(handle)
        assert found[:2] == [b".", b".."]
        return found[2:]

    async def content(self, ino: Ino) -> bytes:
        """Return a file's bytes, read through a handle of their own."""
        handle = self.vfs.open(ino, os.O_RDONLY)
        size = self.vfs.getattr(ino).inode.size
        data = bytes(await self.vfs.read(handle, 0, size + 10))
        self.vfs.release(handle)
        return data

    def mode(self, ino: Ino) -> int:
        return stat.S_IMODE(self.vfs.getattr(ino).inode.mode)

    def inodes(self) -> int:
        """Return how many inodes the store holds."""
        with self.store.index.read() as txn:
            counters = txn.counters
            assert txn.rows("inodes") == counters.files + counters.directories
            return txn.rows("inodes")

    def rows(self, table: str) -> int:
        with self.store.index.read() as txn:
            return txn.rows(table)
