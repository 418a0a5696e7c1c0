"""Reading and writing: a wrong byte is a wrong training run."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
import trio

from dedupfs.core.errors import BadHandle, FileTooBig, InvalidArgument, NameExists, NoSpace
from dedupfs.core.types import FILE_MAX_BYTES, ROOT_INO, Ino
from dedupfs.store.reading import ReadPlan
from dedupfs.store.writer import Writer
from dedupfs.vfs.attributes import SetAttr
from vfs.world import USER

if TYPE_CHECKING:
    from dedupfs.store.checkpoint import Checkpoint
    from vfs.world import World


def opened(world: World, name: bytes = b"file") -> tuple[Ino, int]:
    made, handle = world.vfs.create(ROOT_INO, name, 0o644, USER, os.O_RDWR)
    return made.ino, handle


async def test_pending_and_placed_bytes_read_as_one(world: World) -> None:
    _, handle = opened(world)
    data = random.Random(1).randbytes(3_000_000)
    for start in range(0, len(data), 70_001):
        world.vfs.write(handle, start, data[start : start + 70_001])
    for offset, size in ((0, 10), (2_000_000, 900_000), (2_999_990, 100), (1, 2_999_999)):
        read = bytes(await world.vfs.read(handle, offset, size))
        assert read == data[offset : offset + size]
    assert await world.vfs.read(handle, 3_000_000, 10) == b""
    assert await world.vfs.read(handle, 4_000_000, 10) == b""


async def test_writes_before_inside_and_after_pending_bytes(world: World) -> None:
    ino, handle = opened(world)
    world.vfs.write(handle, 100, b"a" * 50)
    world.vfs.write(handle, 120, b"b" * 10)
    world.vfs.write(handle, 90, b"c" * 20)
    world.vfs.write(handle, 300, b"d")
    want = bytearray(301)
    want[100:150] = b"a" * 50
    want[120:130] = b"b" * 10
    want[90:110] = b"c" * 20
    want[300:] = b"d"
    assert bytes(await world.vfs.read(handle, 0, 1000)) == want
    world.vfs.flush(handle)
    world.vfs.release(handle)
    assert await world.content(ino) == want


async def test_handles_of_one_inode_see_each_others_bytes(world: World) -> None:
    """datasets holds its temp file open while a second handle truncates and writes it."""
    ino, first = opened(world)
    world.vfs.write(first, 0, b"first handle")
    second = world.vfs.open(ino, os.O_WRONLY | os.O_TRUNC)
    world.vfs.write(second, 0, b"second")
    assert await world.vfs.read(first, 0, 100) == b"second"
    world.vfs.release(second)
    world.vfs.write(first, 6, b"!")
    assert await world.vfs.read(first, 0, 100) == b"second!"
    world.vfs.release(first)
    assert await world.content(ino) == b"second!"


async def test_the_writeback_cache_may_use_any_handle(world: World) -> None:
    ino = world.create(b"file", b"0123456789")
    writing = world.vfs.open(ino, os.O_WRONLY)
    reading = world.vfs.open(ino, os.O_RDONLY)
    assert await world.vfs.read(writing, 2, 3) == b"234"
    world.vfs.release(writing)
    world.vfs.write(reading, 0, b"late")
    world.vfs.release(reading)
    assert await world.content(ino) == b"late456789"


async def test_truncate_both_ways_leaves_zeros_never_old_bytes(world: World) -> None:
    ino, handle = opened(world)
    world.vfs.write(handle, 0, b"secret" * 20_000)
    world.vfs.flush(handle)
    world.vfs.write(handle, 120_000, b"pending secret")
    world.vfs.setattr(ino, SetAttr(size=10))
    world.vfs.setattr(ino, SetAttr(size=200_000))
    want = b"secretsecr" + bytes(199_990)
    assert await world.vfs.read(handle, 0, 300_000) == want
    world.vfs.write(handle, 150_000, b"x")
    world.vfs.release(handle)
    world.reopen()
    assert await world.content(ino) == want[:150_000] + b"x" + want[150_001:]


async def test_a_sparse_file_beyond_4_gib_takes_no_space_for_holes(world: World) -> None:
    ino, handle = opened(world)
    far = (5 << 30) + 123
    world.vfs.write(handle, far, b"end")
    world.vfs.flush(handle)
    found = world.vfs.getattr(ino)
    assert found.inode.size == far + 3
    assert found.blocks <= 8
    assert await world.vfs.read(handle, far - 5, 100) == bytes(5) + b"end"
    assert not any(await world.vfs.read(handle, 1 << 30, 4096))


def test_what_is_written_shows_at_once_in_stat(world: World) -> None:
    ino, handle = opened(world)
    before = world.vfs.getattr(ino).inode.mtime_ns
    world.vfs.write(handle, 0, b"x" * 1000)
    found = world.vfs.getattr(ino)
    assert found.inode.size == 1000
    assert found.blocks == 2
    assert found.inode.mtime_ns == found.inode.ctime_ns > before
    assert world.look(b"file").inode.size == 1000
    listing = world.vfs.opendir(ROOT_INO)
    sizes = {entry.name: entry.attributes.inode.size for entry in world.vfs.readdir(listing, 0)}
    assert sizes[b"file"] == 1000


def test_files_end_where_those_of_ext4_end(world: World) -> None:
    ino, handle = opened(world)
    with pytest.raises(FileTooBig):
        world.vfs.write(handle, FILE_MAX_BYTES, b"x")
    with pytest.raises(FileTooBig):
        world.vfs.setattr(ino, SetAttr(size=FILE_MAX_BYTES + 1))
    assert world.vfs.getattr(ino).inode.size == 0
    assert world.vfs.write(handle, FILE_MAX_BYTES - 2, b"xyz") == 2
    assert world.vfs.getattr(ino).inode.size == FILE_MAX_BYTES
    world.vfs.setattr(ino, SetAttr(size=FILE_MAX_BYTES))


async def test_a_full_disk_keeps_what_was_acknowledged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(world)
    data = random.Random(2).randbytes(1_500_000)
    world.vfs.write(handle, 0, data[:700_000])

    def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.store._segments, "write", full)
        with pytest.raises(NoSpace):
            world.vfs.write(handle, 700_000, data[700_000:])
        assert world.vfs.getattr(ino).inode.size == 700_000
        assert bytes(await world.vfs.read(handle, 0, 2_000_000)) == data[:700_000]
        with pytest.raises(NoSpace):
            world.vfs.flush(handle)
        with pytest.raises(NoSpace):
            world.vfs.write(handle, 5_000_000, b"far away")
        assert world.vfs.getattr(ino).inode.size == 700_000
    world.vfs.write(handle, 700_000, data[700_000:])
    world.vfs.flush(handle)
    world.vfs.release(handle)
    world.reopen()
    assert await world.content(ino) == data


def test_release_on_a_full_disk_ends_the_handle(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ino, handle = opened(world)
    world.vfs.write(handle, 0, os.urandom(5000))

    def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.store._segments, "write", full)
        world.vfs.release(handle)
    assert "lost" in caplog.text
    again = world.vfs.open(ino, os.O_RDWR)
    world.vfs.write(again, 0, b"works")
    world.vfs.release(again)


async def test_a_cold_read_sees_what_was_written_before_it_and_nothing_torn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pending bytes may be placed while the worker reads by the older plan."""
    ino, handle = opened(world)
    world.vfs.write(handle, 0, b"a" * 100_000)
    world.vfs.flush(handle)
    world.vfs.write(handle, 50_000, b"b" * 100)

    monkeypatch.setattr(ReadPlan, "try_now", lambda _self: None)
    started, go_on = trio.Event(), trio.Event()
    run = ReadPlan.run

    def slow(plan: ReadPlan) -> bytearray:
        trio.from_thread.run_sync(started.set)
        trio.from_thread.run(go_on.wait)
        return run(plan)

    monkeypatch.setattr(ReadPlan, "run", slow)
    found: list[bytes] = []

    async def read() -> None:
        found.append(bytes(await world.vfs.read(handle, 49_990, 120)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await started.wait()
        world.vfs.flush(handle)
        world.vfs.unlink(ROOT_INO, b"file")
        world.vfs.release(handle)
        world.vfs.forget([(ino, 1)])
        world.store.reclaim()
        go_on.set()
    assert found == [b"a" * 10 + b"b" * 100 + b"a" * 10]


def test_truncating_open_changes_times_even_of_an_empty_file(world: World) -> None:
    ino = world.create(b"file")
    before = world.vfs.getattr(ino).inode
    handle = world.vfs.open(ino, os.O_WRONLY | os.O_TRUNC)
    after = world.vfs.getattr(ino).inode
    assert after.mtime_ns == after.ctime_ns > before.mtime_ns
    world.vfs.release(handle)


def test_create_opens_what_exists_unless_exclusive(world: World) -> None:
    ino = world.create(b"file", b"content")
    found, handle = world.vfs.create(ROOT_INO, b"file", 0o600, USER, os.O_RDWR)
    assert (found.ino, found.inode.size) == (ino, 7)
    world.vfs.release(handle)
    found, handle = world.vfs.create(ROOT_INO, b"file", 0o600, USER, os.O_RDWR | os.O_TRUNC)
    assert (found.ino, found.inode.size) == (ino, 0)
    world.vfs.release(handle)
    with pytest.raises(NameExists):
        world.vfs.create(ROOT_INO, b"file", 0o600, USER, os.O_RDWR | os.O_EXCL)


def test_only_regular_files_are_opened_here(world: World) -> None:
    with pytest.raises(InvalidArgument):
        world.vfs.open(world.mkdir(b"dir"), os.O_RDONLY)


async def test_a_closed_handle_is_refused(world: World) -> None:
    _, handle = opened(world)
    world.vfs.release(handle)
    with pytest.raises(BadHandle):
        world.vfs.write(handle, 0, b"x")
    with pytest.raises(BadHandle):
        await world.vfs.read(handle, 0, 1)
    with pytest.raises(BadHandle):
        world.vfs.release(handle)


async def test_reading_moves_atime_as_relatime_does(world: World) -> None:
    ino = world.create(b"file", b"x")
    handle = world.vfs.open(ino, os.O_RDONLY)

    async def atime_after_read() -> int:
        await world.vfs.read(handle, 0, 1)
        return world.vfs.getattr(ino).inode.atime_ns

    first = await atime_after_read()
    assert first > world.vfs.getattr(ino).inode.mtime_ns
    assert await atime_after_read() == first
    world.now_ns += 25 * 3600 * 10**9
    second = await atime_after_read()
    assert second > first
    world.vfs.release(handle)
    world.reopen()
    assert world.vfs.getattr(ino).inode.atime_ns == second


async def test_the_writeback_cache_reading_to_write_is_no_access(world: World) -> None:
    ino = world.create(b"file", b"x")
    world.vfs.serve_kernel(
        forget_name=lambda _parent, _name: None,
        forget_attributes=[].append,
        forget_listing=[].append,
        keeps_times=True,
    )
    before = world.vfs.getattr(ino).inode.atime_ns
    writing = world.vfs.open(ino, os.O_RDWR)
    await world.vfs.read(writing, 0, 4096)
    assert world.vfs.getattr(ino).inode.atime_ns == before
    reading = world.vfs.open(ino, os.O_RDONLY)
    await world.vfs.read(reading, 0, 4096)
    assert world.vfs.getattr(ino).inode.atime_ns > before
    world.vfs.release(writing)
    world.vfs.release(reading)


def test_an_unlinked_file_is_not_stored_when_it_is_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scratch files cost no disk time for bytes that nobody can read again."""
    ino, handle = opened(world)
    world.vfs.write(handle, 0, b"x" * 5000)
    world.vfs.unlink(ROOT_INO, b"file")
    world.vfs.forget([(ino, 1)])
    monkeypatch.setattr(Writer, "_ingest", None)
    world.vfs.release(handle)
    assert world.inodes() == 1


async def test_fsync_makes_it_durable_and_waiting_ones_share(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, handle = opened(world)
    world.vfs.write(handle, 0, b"x")
    begun = []
    begin = world.store.begin_checkpoint

    def counted() -> Checkpoint | None:
        assert world.rows("extents") == 1, "flushed first"
        begun.append(1)
        return begin()

    monkeypatch.setattr(world.store, "begin_checkpoint", counted)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(world.vfs.fsync, handle)
    assert 1 <= len(begun) <= 2
    assert world.store.index.is_marked
    world.mkdir(b"later")
    assert not world.store.index.is_marked
    await world.vfs.fsyncdir(world.vfs.opendir(ROOT_INO))
    assert world.store.index.is_marked


def test_regression_removing_a_file_of_many_pieces_holds_up_nobody(world: World) -> None:
    """One transaction for a file of 200,000 extents took 9 s in which nothing else was served."""
    ino = world.create(b"f")
    handle = world.vfs.open(ino, os.O_RDWR)
    for number in range(1200):
        world.vfs.write(handle, number * 8192, bytes([number % 251 + 1]) * 600)
    world.vfs.release(handle)
    world.vfs.forget([(ino, 100)])
    world.vfs.unlink(ROOT_INO, b"f")
    assert world.store.usage(ino).extents == 1200, "not in the unlink itself"
    assert world.vfs.drop_unused()
    assert 0 < world.store.usage(ino).extents < 1200
    world.crash()
    while world.vfs.drop_unused():
        pass
    assert world.store.usage(ino).extents == 0
    assert world.store.index.counters.files == 0


def test_bits_set_while_a_stranger_holds_the_file_open_go_with_its_next_write(world: World) -> None:
    """Else who was let to write a file before it became setuid could put a program into it."""
    told: list[int] = []
    world.vfs.serve_kernel(
        forget_name=lambda _parent, _name: None,
        forget_attributes=told.append,
        forget_listing=[].append,
        keeps_times=False,
    )
    ino = world.create(b"f", b"harmless")
    stranger = world.vfs.open(ino, os.O_WRONLY)
    assert world.vfs.is_direct(stranger)
    world.vfs.setattr(ino, SetAttr(mode=0o4755))
    world.vfs.write(stranger, 0, b"harmful")
    assert world.vfs.getattr(ino).inode.mode & 0o7777 == 0o755
    assert told == [ino]
    world.vfs.release(stranger)
    world.vfs.setattr(ino, SetAttr(mode=0o4755))
    handle = world.vfs.open(ino, os.O_WRONLY)
    assert not world.vfs.is_direct(handle), "the kernel says when these bits go"
    world.vfs.release(handle)
