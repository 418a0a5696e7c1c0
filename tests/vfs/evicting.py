"""A World with limits, and what its tests ask of it."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import trio

from dedupfs.core.errors import NeedsRoom
from dedupfs.core.eviction import Limits, Settings
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import units
from dedupfs.store.store import Store
from dedupfs.vfs.vfs import Vfs
from vfs.world import USER, World

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Full(World):
    """A World that is kept within `settings`."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self.settings = settings
        self.worst = 0.0  # of du over capacity, sampled at each write
        super().__init__(path)

    def open(self) -> None:
        self.store = Store.open(self.path)
        self.vfs = Vfs(self.store, clock=self.clock, eviction=self.settings)

    def du(self) -> int:
        """Return what the segments take, as du says."""
        return sum(entry.stat().st_blocks * 512 for entry in os.scandir(self.path / "segments"))

    def sample(self) -> None:
        if self.settings.limits.capacity_bytes:
            self.worst = max(self.worst, self.du() / self.settings.limits.capacity_bytes)

    async def put(self, handle: int, data: bytes, step: int = 256 << 10, offset: int = 0) -> None:
        """Write as the kernel's requests do; other tasks run in between."""
        for at in range(0, len(data), step):
            part = data[at : at + step]
            try:
                self.vfs.write(handle, offset + at, part)
            except NeedsRoom:
                await self.vfs.write_when_room(handle, offset + at, part)
            self.sample()
            await trio.lowlevel.checkpoint()

    async def file(self, name: bytes, data: bytes, parent: Ino = ROOT_INO) -> Ino:
        """Write a closed file; the kernel forgets it."""
        await self.vfs.room_for_file()
        made, handle = self.vfs.create(parent, name, 0o644, USER, os.O_RDWR)
        try:
            await self.put(handle, data)
            self.vfs.flush(handle)
            self.sample()
        finally:
            self.vfs.release(handle)
            self.vfs.forget([(made.ino, 1)])
        return made.ino

    def use(self, ino: Ino) -> None:
        self.vfs.release(self.vfs.open(ino, os.O_RDONLY))

    def last(self, path: bytes) -> units.Eviction | None:
        with self.store.index.read() as txn:
            return units.last_eviction(txn, path)

    def evicted(self) -> int:
        return self.vfs.evictor.tally.units


def within(capacity_bytes: int, **others: object) -> Settings:
    limits = Limits(capacity_bytes=capacity_bytes)
    return Settings(limits=limits, **others)  # type: ignore[arg-type]
