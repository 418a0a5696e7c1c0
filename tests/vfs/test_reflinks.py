"""Files put together from reflinks: what they hold, and when they are let go.

What is lost if one fails: a reader is given the bytes of an older file, or space is never freed.
The kernel's clone call is stood in for by a copy, so that this runs on any file system.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import Stale
from dedupfs.core.types import PAGE_BYTES, Ino
from dedupfs.store import reflinks
from dedupfs.store.reflinks import Plan
from dedupfs.vfs.attributes import SetAttr

if TYPE_CHECKING:
    from vfs.world import World

MIB = 1 << 20
DATA = random.Random(3).randbytes(2 * MIB + 99)
OTHER = DATA[:1000] + b"0123456789abcdef" + DATA[1016:]


class Kernel:
    """Stands in for the kernel's table of backing files: an id is the descriptor itself."""

    def backing_open(self, fd: int) -> int:
        return fd

    def backing_close(self, backing_id: int) -> None:
        pass


def clone(fd: int, request: int, argument: bytes | int = 0) -> None:
    """Do what FICLONERANGE does, and refuse what it refuses."""
    if request == reflinks._FICLONE:
        return
    assert isinstance(argument, bytes)
    source, offset, length, target = struct.unpack("qQQQ", argument)
    assert offset % PAGE_BYTES == length % PAGE_BYTES == target % PAGE_BYTES == 0, "EINVAL"
    assert os.pwrite(fd, os.pread(source, length, offset), target) == length


@pytest.fixture
def reflinking(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(fcntl, "ioctl", clone)
    world.vfs.passthrough.enable(Kernel())
    world.store.reflinks.why_not = ""
    return world


async def passed(world: World, ino: Ino) -> bytes | None:
    """Open a file for reading as the kernel does; return what it is read from, None: the daemon."""
    if world.vfs.wants_preparing(ino, os.O_RDONLY):
        await world.vfs.prepare(ino)
    handle = world.vfs.open(ino, os.O_RDONLY)
    try:
        fd = world.vfs.backing_id(handle)
        return None if fd is None else os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        world.vfs.release(handle)


async def test_a_file_that_differs_in_a_page_is_put_together_once(reflinking: World) -> None:
    reflinking.create(b"a", DATA)
    ino = reflinking.create(b"b", OTHER)
    assert reflinking.store.usage(ino).extents > 1, "else this shows nothing"
    assert await passed(reflinking, ino) == OTHER
    made = reflinking.store.reflinks.find(ino, len(OTHER))
    assert made is not None
    assert await passed(reflinking, ino) == OTHER
    assert reflinking.store.reflinks.find(ino, len(OTHER)) is made


async def test_holes_and_the_front_of_a_longer_file_are_put_together(reflinking: World) -> None:
    reflinking.create(b"a", DATA)
    ino = reflinking.create(b"front", DATA[:MIB])
    assert await passed(reflinking, ino) == DATA[:MIB]
    sparse = DATA[:MIB] + bytes(MIB) + OTHER[:PAGE_BYTES] + DATA[PAGE_BYTES:MIB]
    ino = reflinking.create(b"sparse", sparse)
    assert await passed(reflinking, ino) == sparse


async def test_shifted_and_small_files_take_the_ordinary_path(reflinking: World) -> None:
    reflinking.create(b"a", DATA)
    assert await passed(reflinking, reflinking.create(b"shifted", b"x" * 1000 + DATA)) is None
    assert await passed(reflinking, reflinking.create(b"small", DATA[:60_000])) is None


@pytest.mark.parametrize("how", ["write", "cut", "grow", "grow and cut"])
async def test_a_file_that_changed_is_put_together_anew(reflinking: World, how: str) -> None:
    reflinking.create(b"a", DATA)
    ino = reflinking.create(b"b", OTHER)
    assert await passed(reflinking, ino) == OTHER
    want = change(reflinking, ino, how)
    assert await passed(reflinking, ino) == want


@pytest.mark.parametrize("how", ["write", "cut", "grow", "grow and cut"])
async def test_a_file_that_changes_meanwhile_is_not_read_as_it_was(
    reflinking: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    reflinking.create(b"a", DATA)
    ino = reflinking.create(b"b", OTHER)
    want = OTHER
    run = Plan.run

    def changing(plan: Plan) -> object:
        nonlocal want
        made = run(plan)
        want = change(reflinking, ino, how)
        return made

    monkeypatch.setattr(Plan, "run", changing)
    # Run here, not in a worker: the change is the loop thread's.
    monkeypatch.setattr("trio.to_thread.run_sync", lambda work, **_: here(work))
    found = await passed(reflinking, ino)
    assert found in {None, want}


async def here(work: object) -> object:
    return work()  # type: ignore[operator]


def change(world: World, ino: Ino, how: str) -> bytes:
    if how == "write":
        handle = world.vfs.open(ino, os.O_RDWR)
        world.vfs.write(handle, MIB, b"new")
        world.vfs.release(handle)
        return OTHER[:MIB] + b"new" + OTHER[MIB + 3 :]
    if how == "cut":
        world.vfs.setattr(ino, SetAttr(size=MIB))
        return OTHER[:MIB]
    world.vfs.setattr(ino, SetAttr(size=3 * MIB))
    if how == "grow":
        return OTHER + bytes(3 * MIB - len(OTHER))
    world.vfs.setattr(ino, SetAttr(size=len(OTHER) - 9))
    return OTHER[:-9]


async def test_a_removed_file_and_repaired_bytes_let_it_go(reflinking: World) -> None:
    reflinking.create(b"a", DATA)
    ino = reflinking.create(b"b", OTHER)
    await passed(reflinking, ino)
    reflinking.store._segments.repairs += 1
    assert reflinking.store.reflinks.find(ino, len(OTHER)) is None, "its blocks may be the bad ones"
    await passed(reflinking, ino)
    reflinking.vfs.unlink(Ino(1), b"b")
    assert not reflinking.store.reflinks._kept, "the space would stay taken"


async def test_a_disk_that_is_full_leaves_the_ordinary_path(
    reflinking: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reflinking.create(b"a", DATA)
    ino = reflinking.create(b"b", OTHER)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fcntl, "ioctl", full)
    assert await passed(reflinking, ino) is None
    assert await reflinking.content(ino) == OTHER
    monkeypatch.setattr(fcntl, "ioctl", clone)
    assert await passed(reflinking, ino) == OTHER, "tried again"


async def test_who_comes_late_by_a_remembered_name_is_sent_to_the_copy(reflinking: World) -> None:
    """Regression: with the readers gone, a write by a second hard link went to the old inode."""
    world = reflinking
    old = world.create(b"a", DATA)
    world.vfs.forget([(world.vfs.link(old, Ino(1), b"b").ino, 1)])
    world.vfs.lookup(Ino(1), b"b")  # the kernel remembers it
    held = world.vfs.open(old, os.O_RDONLY)
    with pytest.raises(Stale):
        world.vfs.open(old, os.O_RDWR)
    world.vfs.release(held)
    for change in (
        lambda: world.vfs.open(old, os.O_RDWR),
        lambda: world.vfs.setattr(old, SetAttr(size=0)),
        lambda: world.vfs.link(old, Ino(1), b"c"),
    ):
        with pytest.raises(Stale):
            change()
    world.vfs.forget([(old, 1)])
    assert not world.vfs._inodes.moved


async def test_a_reader_leaves_a_copy_to_the_writer_who_was_sent_to_it(reflinking: World) -> None:
    """Regression: with readers opening all the time, a writer got ESTALE twice, and so to see it."""
    reflinking.create(b"a", DATA)
    held = reflinking.vfs.open(reflinking.look(b"a").ino, os.O_RDONLY)
    with pytest.raises(Stale):
        reflinking.vfs.open(reflinking.look(b"a").ino, os.O_RDWR)
    copy = reflinking.look(b"a").ino
    assert await passed(reflinking, copy) is None
    reflinking.vfs.release(reflinking.vfs.open(copy, os.O_RDWR))
    reflinking.now_ns += 6 * 10**9
    assert await passed(reflinking, copy) == DATA
    reflinking.vfs.release(held)
