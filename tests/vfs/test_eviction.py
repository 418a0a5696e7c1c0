"""If these fail, a full cache loses what is in use, or grows past what it may take."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING

import pytest
import trio

from dedupfs.core.errors import NeedsRoom, NoSpace, NoSuchName
from dedupfs.core.eviction import Limits, Need, Settings
from dedupfs.core.types import ROOT_INO
from dedupfs.store import units
from dedupfs.store.txn import Txn
from dedupfs.vfs.owners import NOBODY
from vfs.evicting import MIB, Full, noise, within
from vfs.world import USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dedupfs.core.types import Ino


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Callable[[Settings], Full]]:
    made: list[Full] = []

    def make(settings: Settings) -> Full:
        made.append(Full(tmp_path / f"store{len(made)}", settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


Make = "Callable[[Settings], Full]"


async def test_the_oldest_goes_first_and_a_use_makes_young(full: Make) -> None:
    world = full(within(10 * MIB))
    inos = [await world.file(b"f%d" % n, noise(2 * MIB, n)) for n in range(4)]
    world.use(inos[0])
    await world.file(b"f4", noise(2 * MIB, 4))
    assert world.names() == [b"f0", b"f2", b"f3", b"f4"]
    assert await world.content(inos[0]) == noise(2 * MIB, 0)
    assert world.worst <= 1.0


async def test_interleaved_writers_never_pass_the_limit_and_lose_nothing_open(full: Make) -> None:
    world = full(within(8 * MIB))
    kept: dict[bytes, Ino] = {}

    async def writer(number: int) -> None:
        for turn in range(8):
            name = b"w%d-%d" % (number, turn)
            kept[name] = await world.file(name, noise(1_500_000, number * 100 + turn))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(writer, number)
    assert world.worst <= 1.0
    assert world.evicted() >= 20
    left = world.names()
    assert left
    for name in left:
        number, turn = map(int, name[1:].split(b"-"))
        assert await world.content(kept[name]) == noise(1_500_000, number * 100 + turn)


async def test_an_open_file_stays_and_then_enospc_keeps_all(full: Make) -> None:
    world = full(within(6 * MIB))
    first, handle = world.vfs.create(ROOT_INO, b"open", 0o644, USER, os.O_RDWR)
    data = noise(4 * MIB, 1)
    await world.put(handle, data)
    with pytest.raises(NoSpace):
        await world.file(b"more", noise(4 * MIB, 2))
    assert b"open" in world.names()
    assert bytes(await world.vfs.read(handle, 0, len(data))) == data
    world.vfs.release(handle)
    # Closed: now it may go, and the mount goes on.
    await world.file(b"again", noise(4 * MIB, 3))
    assert b"open" not in world.names()
    assert world.worst <= 1.0
    world.vfs.forget([(first.ino, 1)])


async def test_a_file_that_only_a_handle_and_the_kernel_know_is_gone_and_its_space_back(
    full: Make,
) -> None:
    world = full(within(6 * MIB))
    made, handle = world.vfs.create(ROOT_INO, b"known", 0o644, USER, os.O_RDWR)
    await world.put(handle, noise(4 * MIB, 1))
    world.vfs.release(handle)  # the kernel still remembers the inode
    await world.file(b"next", noise(4 * MIB, 2))
    assert world.names() == [b"next"]
    with pytest.raises(NoSuchName):
        world.vfs.open(made.ino, os.O_RDONLY)
    world.vfs.forget([(made.ino, 1)])


async def test_duplicates_need_no_room(full: Make) -> None:
    world = full(within(6 * MIB))
    data = noise(5 * MIB, 1)
    first, handle = world.vfs.create(ROOT_INO, b"one", 0o644, USER, os.O_RDWR)
    await world.put(handle, data)
    world.vfs.flush(handle)
    await world.file(b"two", data)
    await world.file(b"three", data)
    assert world.names() == [b"one", b"two", b"three"]
    assert world.evicted() == 0
    assert world.worst <= 1.0
    world.vfs.release(handle)
    world.vfs.forget([(first.ino, 1)])


async def test_who_shares_with_a_unit_in_use_is_passed_over(full: Make) -> None:
    world = full(within(12 * MIB))
    data = noise(4 * MIB, 1)
    await world.file(b"shares", data)
    kept = await world.file(b"in-use", data)
    handle = world.vfs.open(kept, os.O_RDONLY)
    await world.file(b"own", noise(4 * MIB, 2))
    await world.file(b"new", noise(4 * MIB, 3))
    assert world.names() == [b"shares", b"in-use", b"new"]
    world.vfs.release(handle)


async def test_sharers_go_together_when_only_that_frees_space(full: Make) -> None:
    world = full(within(12 * MIB))
    data = noise(8 * MIB, 1)
    for name in (b"a", b"b", b"c"):
        await world.file(name, data)
    await world.file(b"new", noise(6 * MIB, 2))
    assert world.names() == [b"new"]
    last = world.last(b"a")
    assert last is not None
    assert "with others" in last.reason
    assert world.last(b"c").freed_bytes == 8 * MIB  # type: ignore[union-attr]


async def test_a_pinned_unit_stays(full: Make) -> None:
    world = full(within(10 * MIB))
    folder = world.mkdir(b"pinned")
    await world.file(b"in", noise(4 * MIB, 1), folder)
    world.vfs.pins.pin(folder)
    for number in range(4):
        await world.file(b"f%d" % number, noise(4 * MIB, 10 + number))
    assert world.names() == [b"pinned", b"f3"]
    world.vfs.pins.unpin(folder)
    await world.file(b"g", noise(8 * MIB, 30))
    assert b"pinned" not in world.names()


async def test_units_of_the_dead_go_before_older_ones_and_those_of_the_living_stay(
    full: Make,
) -> None:
    world = full(within(12 * MIB))
    await world.file(b"oldest", noise(3 * MIB, 1))
    owners = world.vfs._units.owners
    dead = owners.of_thread(os.getpid())._replace(start=1)
    living = owners.of_thread(os.getpid())
    for name, owner in ((b"dead", dead), (b"living", living)):
        owners.of_thread = lambda _tid, owner=owner: owner  # type: ignore[method-assign,misc]
        folder = world.mkdir(name)
        await world.file(b"x", noise(3 * MIB, 7 + len(name)), folder)
    owners.of_thread = lambda _tid: NOBODY  # type: ignore[method-assign,misc]
    await world.file(b"new", noise(3 * MIB, 2))
    assert world.names() == [b"oldest", b"living", b"new"]
    last = world.last(b"dead")
    assert last is not None
    assert last.reason.startswith("owner died")
    with pytest.raises(NoSpace):
        await world.file(b"too-much", noise(11 * MIB, 3))
    assert b"living" in world.names()


async def test_a_folder_made_by_a_script_belongs_to_who_writes_in_it(full: Make) -> None:
    # `mkdir -p` has ended when the ranks start: their folder is no leftover.
    world = full(within(12 * MIB))
    owners = world.vfs._units.owners
    rank = owners.of_thread(os.getpid())
    owners.of_thread = lambda _tid: rank._replace(start=1)  # type: ignore[method-assign,misc]
    folders = [world.mkdir(name) for name in (b"left", b"used")]
    await world.file(b"x", noise(3 * MIB, 1), folders[0])
    owners.of_thread = lambda _tid: rank  # type: ignore[method-assign,misc]
    world.vfs._units._grown.clear()  # as if the script had written there long ago
    await world.file(b"x", noise(3 * MIB, 2), folders[1])
    await world.file(b"new", noise(6 * MIB, 3))
    assert world.names() == [b"used", b"new"]
    with pytest.raises(NoSpace):
        await world.file(b"too-much", noise(11 * MIB, 4))
    assert world.names(folders[1]) == [b"x"]


async def test_below_the_high_mark_nothing_is_read_for_eviction(
    full: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = full(within(64 * MIB))
    reads: list[str] = []
    for method in ("get", "scan", "floor"):
        real = getattr(Txn, method)

        def counted(self: Txn, table: str, *rest: object, real: object = real) -> object:
            if table in {"units", "queue", "history", "evicted"}:
                reads.append(table)
            return real(self, table, *rest)  # type: ignore[operator]

        monkeypatch.setattr(Txn, method, counted)
    folder = world.mkdir(b"folder")
    for number in range(20):
        ino = await world.file(b"f%d" % number, noise(MIB, number), folder)
        world.use(ino)
    await world.file(b"single", noise(MIB, 50))
    assert reads == []
    assert world.evicted() == 0
    assert world.vfs.evictor.planner.looked_at == 0


async def test_a_folder_goes_in_slices_and_a_kill_in_between_loses_nothing_else(
    full: Make,
) -> None:
    world = full(within(64 * MIB))
    folder = world.mkdir(b"folder")
    below = world.mkdir(b"below", folder)
    for number in range(300):
        await world.file(b"f%d" % number, noise(5000, number), below)
    other = await world.file(b"other", noise(MIB, 900))
    plan = await world.vfs.evictor.plan(Need(1))
    assert [group.units for group, _ in plan.groups] == [(folder,)]
    await world.vfs.evictor.carry_out(plan)
    assert world.names() == [b"other"]
    for _ in range(3):
        assert world.vfs._inodes.drop_doomed()
    with world.store.index.read() as txn:
        assert 0 < txn.rows("dirents") < 301
    world.crash()
    assert world.names() == [b"other"]
    while world.vfs.drop_unused():
        pass
    assert world.inodes() == 2
    assert await world.content(other) == noise(MIB, 900)


async def test_what_is_open_in_an_evicted_folder_stays_until_it_is_closed(full: Make) -> None:
    world = full(within(64 * MIB))
    folder = world.mkdir(b"folder")
    ino = await world.file(b"file", noise(MIB, 1), folder)
    evictor = world.vfs.evictor
    plan = await evictor.plan(Need(1))
    await evictor.carry_out(plan)
    # Opened by a name the kernel has not forgotten yet.
    handle = world.vfs.open(ino, os.O_RDONLY)
    await evictor.get_back()
    assert bytes(await world.vfs.read(handle, 0, MIB)) == noise(MIB, 1)
    world.vfs.release(handle)
    while world.vfs.drop_unused():
        pass
    assert world.inodes() == 1


async def test_a_unit_that_is_opened_after_the_plan_stays(full: Make) -> None:
    world = full(within(64 * MIB))
    ino = await world.file(b"file", noise(MIB, 1))
    plan = await world.vfs.evictor.plan(Need(1))
    handle = world.vfs.open(ino, os.O_RDONLY)
    assert await world.vfs.evictor.carry_out(plan) == 0
    assert world.names() == [b"file"]
    world.vfs.release(handle)


async def test_max_files(full: Make) -> None:
    world = full(Settings(limits=Limits(max_files=20)))
    for number in range(100):
        await world.file(b"f%d" % number, b"x" * 100)
        assert world.store.index.counters.files <= 20
    assert b"f99" in world.names()
    assert b"f79" not in world.names()


async def test_files_of_open_folders_are_refused_at_once(full: Make) -> None:
    world = full(Settings(limits=Limits(max_files=3)))
    folder = world.mkdir(b"folder")
    made, handle = world.vfs.create(folder, b"open", 0o644, USER, os.O_RDWR)
    for name in (b"a", b"b"):
        await world.file(name, b"", folder)
    with pytest.raises(NoSpace):
        await world.file(b"c", b"", folder)
    assert world.names(folder) == [b"open", b"a", b"b"]
    world.vfs.release(handle)
    world.vfs.forget([(made.ino, 1)])


async def test_another_depth_makes_other_units(full: Make) -> None:
    world = full(within(64 * MIB))
    folder = world.mkdir(b"folder")
    inner = world.mkdir(b"inner", folder)
    await world.file(b"f", noise(MIB, 1), inner)
    single = await world.file(b"single", b"1", folder)
    top = await world.file(b"top", b"1")
    assert units_of(world) == {folder, top}
    world.settings = dataclasses.replace(world.settings, depth=2)
    world.reopen()
    assert units_of(world) == {inner, single, top}
    other = world.mkdir(b"other")
    assert units_of(world) == {inner, single, top}
    world.vfs.rename(ROOT_INO, b"folder", other, b"folder")
    assert units_of(world) == {folder, top}
    world.vfs.rename(other, b"folder", ROOT_INO, b"back")
    assert units_of(world) == {inner, single, top}
    await world.vfs.evictor.evict(lambda: world.vfs.evictor.plan(Need(1)))
    assert world.names(folder) == [b"single"]


def units_of(world: Full) -> set[int]:
    with world.store.index.read() as txn:
        return {int.from_bytes(key, "big") for key, _ in txn.scan("units", b"")}


async def test_hard_links_go_when_all_names_can(full: Make) -> None:
    world = full(within(64 * MIB))
    first, second = world.mkdir(b"first"), world.mkdir(b"second")
    ino = await world.file(b"file", noise(MIB, 1), first)
    world.vfs.link(ino, second, b"link")
    world.vfs.forget([(ino, 1)])
    plan = await world.vfs.evictor.plan(Need(1))
    assert [set(group.units) for group, _ in plan.groups] == [{first, second}]
    await world.vfs.evictor.evict(lambda: world.vfs.evictor.plan(Need(1)))
    assert world.names() == []
    assert world.inodes() == 1


async def test_a_live_change_of_the_limit(full: Make) -> None:
    world = full(within(64 * MIB))
    for number in range(10):
        await world.file(b"f%d" % number, noise(2 * MIB, number))
    assert world.evicted() == 0
    evictor = world.vfs.evictor
    evictor.change_settings(within(10 * MIB))
    await evictor.to_low_mark()
    assert world.du() <= 0.9 * 10 * MIB
    assert world.names()[-1] == b"f9"


async def test_ttl_and_gc_look_at_the_oldest_only(full: Make) -> None:
    world = full(within(64 * MIB, ttl_ns=10**12))
    old = await world.file(b"old", noise(MIB, 1))
    world.vfs.flush_uses()
    world.now_ns += 10**12
    await world.file(b"new", noise(MIB, 2))
    world.use(old)
    world.vfs.flush_uses()
    await world.vfs.evictor.remove_old()
    assert world.names() == [b"old", b"new"]
    world.now_ns += 2 * 10**12
    await world.vfs.evictor.remove_old()
    assert world.names() == []
    last = world.last(b"old")
    assert last is not None
    assert last.reason.startswith("not used for the time to live")


async def test_the_scan_resistant_policy_keeps_what_is_used_again(full: Make) -> None:
    world = full(within(20 * MIB, policy="s3fifo"))
    hot = [await world.file(b"hot%d" % n, noise(MIB, n)) for n in range(5)]
    world.now_ns += 10**12
    for ino in hot:
        world.use(ino)
    world.vfs.flush_uses()
    for number in range(60):
        await world.file(b"scan%d" % number, noise(MIB, 100 + number))
    assert [name for name in world.names() if name.startswith(b"hot")] == [
        b"hot%d" % n for n in range(5)
    ]


async def test_a_unit_that_comes_back_is_remembered(full: Make) -> None:
    world = full(within(8 * MIB, policy="s3fifo"))
    for number in range(8):
        await world.file(b"f%d" % number, noise(2 * MIB, number))
    assert b"f0" not in world.names()
    ino = await world.file(b"f0", noise(2 * MIB, 0))
    with world.store.index.read() as txn:
        unit = units.get(txn, ino)
        assert unit is not None
        assert unit.queue == units.MAIN


async def test_writers_that_cannot_be_helped_are_refused_and_others_go_on(full: Make) -> None:
    """All that was acknowledged stays, whoever is refused."""
    world = full(within(4 * MIB))
    handles = {}
    for name in (b"a", b"b"):
        made, handle = world.vfs.create(ROOT_INO, name, 0o644, USER, os.O_RDWR)
        handles[name] = (made.ino, handle)
    done = {b"a": 0, b"b": 0}
    for turn in range(40):
        for name, (_ino, handle) in handles.items():
            with contextlib.suppress(NoSpace):
                part = noise(200_000, turn * 2 + (name == b"b"))
                offset = turn * 200_000
                try:
                    world.vfs.write(handle, offset, part)
                except NeedsRoom:
                    await world.vfs.write_when_room(handle, offset, part)
                if done[name] == offset:
                    done[name] = offset + 200_000
            world.sample()
    assert world.worst <= 1.0
    for name, (ino, handle) in handles.items():
        world.vfs.flush(handle)
        want = b"".join(
            noise(200_000, turn * 2 + (name == b"b")) for turn in range(done[name] // 200_000)
        )
        assert len(want) > MIB
        assert bytes(await world.vfs.read(handle, 0, len(want))) == want
        world.vfs.release(handle)
        world.vfs.forget([(ino, 1)])
