"""Windows placed after the answer: what was accepted must be there for whoever looks, at any time."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import NoSpace
from dedupfs.core.types import ROOT_INO
from vfs.world import USER

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfs.world import World

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Answers:
    """Does what is left to do when a request is answered."""

    def __init__(self, world: World) -> None:
        self._left: list[Callable[[], None]] = []
        world.vfs.settle_after(self._left.append)

    def answer(self) -> None:
        assert len(self._left) <= 1, "the adapter keeps one"
        while self._left:
            self._left.pop()()


async def test_windows_are_placed_between_requests(world: World) -> None:
    answers = Answers(world)
    data = noise(7 * MIB)
    for name in (b"new", b"equal"):
        made, handle = world.vfs.create(ROOT_INO, name, 0o644, USER, os.O_RDWR)
        for at in range(0, len(data), MIB):
            world.vfs.write(handle, at, data[at : at + MIB])
            attributes = world.vfs.getattr(made.ino)
            assert attributes.inode.size == at + MIB
            assert bytes(await world.vfs.read(handle, 0, at + MIB)) == data[: at + MIB]
            answers.answer()
            live = world.vfs._inodes.live[made.ino]
            assert live.pending_bytes < 3 * MIB, "windows are placed without another write"
        world.vfs.flush(handle)
        assert live.pending_bytes == 0
        world.vfs.release(handle)
        world.vfs.forget([(made.ino, 1)])
    assert world.store.index.counters.live_bytes == len(data)


async def test_a_kill_keeps_what_was_flushed_and_nothing_torn(world: World) -> None:
    answers = Answers(world)
    data = noise(8 * MIB)
    made, handle = world.vfs.create(ROOT_INO, b"file", 0o644, USER, os.O_RDWR)
    for at in range(0, len(data), MIB):
        world.vfs.write(handle, at, data[at : at + MIB])
        answers.answer()
        if at == 4 * MIB:
            world.vfs.flush(handle)
    world.crash()
    content = await world.content(made.ino)
    assert content[: 5 * MIB] == data[: 5 * MIB]
    kept = content.rstrip(b"\0")
    assert kept == data[: len(kept)], "what was not placed reads as a hole"


async def test_without_room_the_next_write_fails_and_room_heals_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(world)
    data = noise(6 * MIB)
    made, handle = world.vfs.create(ROOT_INO, b"file", 0o644, USER, os.O_RDWR)

    def full(_fd: int, _data: object, _offset: int) -> int:
        raise OSError(28, "No space left on device")

    accepted = 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NoSpace):  # noqa: PT012 - one of them
            for at in range(0, len(data), MIB):
                world.vfs.write(handle, at, data[at : at + MIB])
                accepted = at + MIB
                answers.answer()
        assert accepted <= 3 * MIB, "it is not accepted without end"
        with pytest.raises(NoSpace):
            world.vfs.flush(handle)
    assert world.vfs.getattr(made.ino).inode.size == accepted
    for at in range(accepted, len(data), MIB):
        world.vfs.write(handle, at, data[at : at + MIB])
        answers.answer()
    world.vfs.flush(handle)
    assert bytes(await world.vfs.read(handle, 0, len(data))) == data
    world.vfs.release(handle)


async def test_a_file_closed_or_removed_before_its_window_is_placed(world: World) -> None:
    answers = Answers(world)
    data = noise(3 * MIB)
    for is_removed in (False, True):
        made, handle = world.vfs.create(ROOT_INO, b"file", 0o644, USER, os.O_RDWR)
        for at in range(0, len(data), MIB):
            answers.answer()
            world.vfs.write(handle, at, data[at : at + MIB])
        if is_removed:
            world.vfs.unlink(ROOT_INO, b"file")
        else:
            world.vfs.flush(handle)
        world.vfs.forget([(made.ino, 1)])
        world.vfs.release(handle)
        answers.answer()
        if not is_removed:
            assert await world.content(made.ino) == data
            world.vfs.unlink(ROOT_INO, b"file")
    assert world.store.index.counters.live_bytes == 0


async def test_many_open_files_do_not_each_keep_a_window(world: World) -> None:
    """Of a thousand files being written, each would take 3 MiB of the daemon's memory."""
    answers = Answers(world)
    opened = []
    data = noise(100 * MIB, 7)
    for number in range(60):
        made, handle = world.vfs.create(ROOT_INO, b"%d" % number, 0o644, USER, os.O_WRONLY)
        opened.append((made.ino, handle))
        content = data[number * MIB :][: MIB + MIB // 2]
        for at in range(0, len(content), MIB // 4):
            world.vfs.write(handle, at, content[at : at + MIB // 4])
            answers.answer()
    live = world.vfs._inodes.live
    pending = [live[ino].pending_bytes for ino, _handle in opened]
    assert sum(size > MIB for size in pending) <= 32
    for number, (ino, handle) in enumerate(opened):
        content = data[number * MIB :][: MIB + MIB // 2]
        world.vfs.flush(handle)
        assert bytes(world.store.read(ino, 0, len(content)).run()) == content
        world.vfs.release(handle)
        world.vfs.forget([(ino, 1)])
