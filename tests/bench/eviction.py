"""What eviction costs: finding a victim, a hit and a miss of a cache of one-file units, a write."""

from __future__ import annotations

import os
import random
import statistics
import time
from typing import TYPE_CHECKING

import trio
from rich.table import Table

from bench.policies import CACHES, measure, traces
from dedupfs.core.errors import NeedsRoom
from dedupfs.core.eviction import Limits, Need, Settings
from dedupfs.core.format import Inode, Unit
from dedupfs.core.types import ROOT_INO
from dedupfs.store import namespace, units
from dedupfs.store.store import Store
from dedupfs.vfs.attributes import Owner
from dedupfs.vfs.vfs import Vfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

_REAL = 60  # files with bytes, the oldest of all
_BATCH = 20_000
_OWNER = Owner(0, 0)


def policies(console: Console) -> dict[str, dict[str, float]]:
    """Print which part of units and bytes each policy serves from the cache."""
    table = Table(
        "trace", *CACHES, title="\nserved from the cache: units, bytes (in brackets: dropped)"
    )
    found: dict[str, dict[str, float]] = {}
    for name, (trace, part) in traces().items():
        ratios = {cache: measure(trace, part, make) for cache, make in CACHES.items()}
        table.add_row(name, *(f"{ratio.units:.3f}  {ratio.bytes:.3f}" for ratio in ratios.values()))
        found[name] = {cache: round(ratio.bytes, 4) for cache, ratio in ratios.items()}
    console.print(table)
    return found


def victims(console: Console, work: Path, counts: tuple[int, ...]) -> dict[str, float]:
    """Print how long finding and detaching a victim takes among so many units."""
    found = {}
    for count in counts:
        store = Store.open(work / f"victims-{count}")
        vfs = Vfs(store, clock=time.time_ns)
        for number in range(_REAL):
            _file(vfs, b"real%d" % number, random.Random(number).randbytes(8000))
        _fill(store, count - _REAL)
        planned, removed = trio.run(_time_victims, vfs)
        console.print(
            f"{count:>9,} units: a victim is found in {planned:.0f} us, removed in {removed:.0f} us",
            highlight=False,
        )
        found[str(count)] = round(planned, 1)
        vfs.close()
        store.close()
    return found


async def _time_victims(vfs: Vfs) -> tuple[float, float]:
    planned, removed = [], []
    for _ in range(_REAL - 10):
        begun = time.perf_counter()
        plan = await vfs.evictor.plan(Need(1))
        middle = time.perf_counter()
        assert await vfs.evictor.carry_out(plan) == 1
        planned.append(middle - begun)
        removed.append(time.perf_counter() - middle)
    return statistics.median(planned) * 1e6, statistics.median(removed) * 1e6


def _fill(store: Store, count: int) -> None:
    """Enter units without bytes, younger than all others."""
    now = time.time_ns()
    made = 0
    while made < count:
        with store.index.write() as txn:
            for _ in range(min(_BATCH, count - made)):
                inode = Inode(0o100644, 0, 0, 1, 0, 0, 0, now, now, now, 0)
                ino = namespace.add_inode(txn, inode)
                namespace.add_entry(txn, ROOT_INO, b"f%d" % ino, ino)
                units.add(txn, ino, Unit(0, now, 0, now + made, now))
                made += 1


def _file(vfs: Vfs, name: bytes, data: bytes) -> None:
    made, handle = vfs.create(ROOT_INO, name, 0o644, _OWNER, os.O_RDWR)
    vfs.write(handle, 0, data)
    vfs.flush(handle)
    vfs.release(handle)
    vfs.forget([(made.ino, 1)])


def misses(console: Console, work: Path) -> dict[str, float]:
    """Print what a miss costs at the limit beside one below it, and a hit among many units."""
    size = 64 << 10
    limit = 2000 * (size + 4096)
    free, full = work / "free", work / "full"
    stores = [Store.open(free), Store.open(full)]
    limited = Settings(limits=Limits(capacity_bytes=limit))
    below, at = (
        Vfs(store, clock=time.time_ns, eviction=settings)
        for store, settings in zip(stores, (Settings(), limited), strict=True)
    )
    rng = random.Random(3)
    times: dict[str, list[float]] = {"below": [], "at": []}

    async def run() -> None:
        for number in range(6000):
            for which, vfs in (("below", below), ("at", at)):
                data = rng.randbytes(size)
                begun = time.perf_counter()
                await _miss(vfs, b"m%d" % number, data)
                times[which].append(time.perf_counter() - begun)

    trio.run(run)
    # Means: a few misses pay for many.
    means = {which: statistics.fmean(found[3000:]) * 1e6 for which, found in times.items()}
    ratio = means["at"] / means["below"]
    console.print(
        f"a miss of 64 KiB: {means['below']:.0f} us below the limit, {means['at']:.0f} us at it: {ratio:.2f}x, "
        f"{at.evictor.tally.units:,} units evicted",
        highlight=False,
    )
    for vfs, store in zip((below, at), stores, strict=True):
        vfs.close()
        store.close()
    return {"miss_ratio": round(ratio, 3)}


async def _miss(vfs: Vfs, name: bytes, data: bytes) -> None:
    made, handle = vfs.create(ROOT_INO, name, 0o644, _OWNER, os.O_RDWR)
    try:
        vfs.write(handle, 0, data)
    except NeedsRoom:
        await vfs.write_when_room(handle, 0, data)
    vfs.flush(handle)
    vfs.release(handle)
    vfs.forget([(made.ino, 1)])


def hits(console: Console, work: Path) -> dict[str, float]:
    """Print what opening, touching and closing costs with few and many units."""
    found = {}
    for count in (100, 1000, 10_000):
        store = Store.open(work / f"hits-{count}")
        vfs = Vfs(store, clock=time.time_ns)
        for number in range(count):
            _file(vfs, b"f%d" % number, b"%d" % number * 500)
        rng = random.Random(count)
        names = [b"f%d" % rng.randrange(count) for _ in range(3000)]
        begun = time.perf_counter()
        for name in names:
            ino = vfs.lookup(ROOT_INO, name).ino
            vfs.release(vfs.open(ino, os.O_RDONLY))
            vfs.forget([(ino, 1)])
        vfs.flush_uses()
        each = (time.perf_counter() - begun) / len(names) * 1e6
        console.print(f"{count:>6,} units: a hit takes {each:.1f} us", highlight=False)
        found[str(count)] = round(each, 1)
        vfs.close()
        store.close()
    return found


def writes(console: Console, work: Path) -> dict[str, float]:
    """Print what the look at the room costs a write, alternating with a write without it."""
    store = Store.open(work / "writes")
    vfs = Vfs(store, clock=time.time_ns, eviction=Settings(limits=Limits(capacity_bytes=1 << 40)))
    files = vfs._files
    made, handle = vfs.create(ROOT_INO, b"f", 0o644, _OWNER, os.O_RDWR)
    live, data = files._find(handle), b"x" * 512
    times: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(200):
        for which, write in (
            ("with", lambda: files.write(handle, 0, data)),
            ("without", lambda: files._write(live, handle, 0, data)),
        ):
            times[which].append(_timed(write, 500))
    medians = {which: statistics.median(found) * 1e9 for which, found in times.items()}
    console.print(
        f"a write of 512 bytes in place: {medians['with']:.0f} ns, {medians['without']:.0f} ns without a look "
        "at the room",
        highlight=False,
    )
    vfs.release(handle)
    vfs.forget([(made.ino, 1)])
    vfs.close()
    store.close()
    return {which: round(found, 1) for which, found in medians.items()}


def _timed(call: Callable[[], object], count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begun) / count
