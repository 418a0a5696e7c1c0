"""How long a start takes after a kill or a power cut, and what checkpoints cost. Prints, asserts nothing."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest
import trio

from crash.history import abandon
from dedupfs.core.types import ROOT_INO
from dedupfs.store import instance
from dedupfs.store.store import Store, remove_files
from dedupfs.vfs.attributes import Owner
from dedupfs.vfs.vfs import Vfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.sections import Options

pytestmark = pytest.mark.bench

OWNER = Owner(0, 0)
FILES = (1000, 10_000, 100_000)
FILE_BYTES = 6000
LEFT_FILES = 400
IN_A_FOLDER = 1000
WORK_S = 16.0
INTERVALS_S = {"every 5 s": 5.0, "practically never": 1e9}
OTHER_BOOT = instance.Instance(b"another boot id.", 1)


@pytest.fixture(autouse=True)
def asked_for(options: Options) -> None:
    """Be the section `recovery`, which has cases of its own."""
    if options.sections and "recovery" not in options.sections:
        pytest.skip("not asked for")


class Maker:
    """Makes small files in folders of a thousand."""

    def __init__(self, vfs: Vfs) -> None:
        self._vfs = vfs
        self._random = random.Random(1)
        self._parent = ROOT_INO
        self.made = 0

    def use(self, vfs: Vfs) -> None:
        """Go on with the store opened anew."""
        self._vfs = vfs

    def make(self, size: int) -> None:
        if self.made % IN_A_FOLDER == 0:
            name = b"d%d" % (self.made // IN_A_FOLDER)
            self._parent = self._vfs.mkdir(ROOT_INO, name, 0o755, OWNER).ino
        made, handle = self._vfs.create(self._parent, b"%d" % self.made, 0o600, OWNER, os.O_RDWR)
        if size:
            self._vfs.write(handle, 0, self._random.randbytes(size))
        self._vfs.flush(handle)
        self._vfs.release(handle)
        self._vfs.forget([(made.ino, 1)])
        self.made += 1


def _checkpoint(store: Store) -> None:
    checkpoint = store.begin_checkpoint()
    if checkpoint is not None:
        checkpoint.write()
        store.end_checkpoint(checkpoint, succeeded=True)


def _open(path: Path) -> float:
    started = time.perf_counter()
    store = Store.open(path)
    Vfs(store, clock=time.time_ns)
    took = time.perf_counter() - started
    abandon(store)
    return took


def _die(store: Store, maker: Maker) -> int:
    """Make a journal of some size, durable but not folded, and end; return its KiB."""
    for _ in range(LEFT_FILES):
        maker.make(FILE_BYTES)
    _checkpoint(store)
    journal_kib = store.index.position >> 10
    abandon(store)
    return journal_kib


@pytest.mark.parametrize("files", FILES)
def test_start_after_a_crash(tmp_path: Path, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store"
    store = Store.open(path)
    maker = Maker(Vfs(store, clock=time.time_ns))
    while maker.made < files - 2 * LEFT_FILES:
        maker.make(FILE_BYTES)
        if maker.made % 2000 == 0:
            _checkpoint(store)
    kill_kib = _die(store, maker)
    killed = _open(path)
    idle = _open(path)
    store = Store.open(path)
    maker.use(Vfs(store, clock=time.time_ns))
    index_mib = store.index.size_bytes() >> 20
    cut_kib = _die(store, maker)
    monkeypatch.setattr(instance, "current", lambda _folder: OTHER_BOOT)
    cut = _open(path)
    print(
        f"\nstart with {maker.made} files, index {index_mib} MiB: {killed * 1000:.0f} ms after a "
        f"kill with {kill_kib} KiB of journal, {idle * 1000:.0f} ms after a kill of an idle one, "
        f"{cut * 1000:.0f} ms after a power cut with {cut_kib} KiB of journal"
    )


async def _checkpoints(store: Store, vfs: Vfs, interval_s: float) -> None:
    while True:
        await trio.sleep(interval_s)
        await vfs.sync()
        doomed, _more = store.reclaim()
        remove_files(doomed)


async def _rate(store: Store, vfs: Vfs, interval_s: float, step: Iterator[int]) -> float:
    """Return units of `step` a second, checkpoints beside it."""
    done = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_checkpoints, store, vfs, interval_s)
        started = time.perf_counter()
        while time.perf_counter() - started < WORK_S:
            done += next(step)
            await trio.lowlevel.checkpoint()
        took = time.perf_counter() - started
        nursery.cancel_scope.cancel()
    return done / took


def _creates(vfs: Vfs) -> Iterator[int]:
    maker = Maker(vfs)
    while True:
        maker.make(0)
        yield 1


def _writes(vfs: Vfs) -> Iterator[int]:
    """Write unique megabytes, 256 to a file; the files before are removed."""
    source = random.Random(2).randbytes(64 << 20)
    for number in range(10**9):
        name = b"f%d" % number
        made, handle = vfs.create(ROOT_INO, name, 0o600, OWNER, os.O_RDWR)
        for at in range(256):
            start = random.Random(number * 256 + at).randrange(63 << 20)
            vfs.write(handle, at << 20, source[start : start + (1 << 20)])
            yield 1
        vfs.flush(handle)
        vfs.release(handle)
        vfs.forget([(made.ino, 1)])
        vfs.unlink(ROOT_INO, name)


@pytest.mark.parametrize("checkpoints", INTERVALS_S)
@pytest.mark.parametrize("work", ["creates", "writes"])
async def test_cost_of_checkpoints(tmp_path: Path, work: str, checkpoints: str) -> None:
    store = Store.open(tmp_path / "store")
    vfs = Vfs(store, clock=time.time_ns)
    step = _creates(vfs) if work == "creates" else _writes(vfs)
    rate = await _rate(store, vfs, INTERVALS_S[checkpoints], step)
    vfs.close()
    store.close()
    unit = "creates/s" if work == "creates" else "MiB/s of new bytes"
    print(f"\ncheckpoints {checkpoints}: {rate:.0f} {unit}")
