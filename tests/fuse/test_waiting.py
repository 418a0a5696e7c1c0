"""If these fail, a mount hangs, starves its own tasks, or ends with an error under load."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from dedupfs.fuse.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator


class Device:
    """A pipe that stands for /dev/fuse; `ask` waits for it as pyfuse3 does and counts."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.asked = 0
        self.waiting = Waiting(self.reading, self.ask)

    async def ask(self) -> bool:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.wait_readable(self.reading)
        return True


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    os.close(made.reading)
    os.close(made.writing)


async def test_a_lone_worker_asks(device: Device) -> None:
    # pyfuse3 starts another worker for each request that comes while nobody asks.
    os.write(device.writing, b"request")
    for turn in range(1, 4):
        assert await device.waiting.wait()
        assert device.asked == turn


async def test_with_another_one_asking_a_worker_takes_what_is_there_at_once(
    device: Device, nursery: trio.Nursery
) -> None:
    nursery.start_soon(device.waiting.wait)
    await trio.testing.wait_all_tasks_blocked()
    device.waiting._turn_ends_ns = 1 << 62
    os.write(device.writing, b"request")
    with trio.fail_after(5):
        for _ in range(100):
            assert await device.waiting.wait()
    assert device.asked == 1
    nursery.cancel_scope.cancel()


async def test_others_get_their_turn_however_many_requests_come(
    device: Device, nursery: trio.Nursery
) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    nursery.start_soon(device.waiting.wait)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(other)
    os.write(device.writing, b"request that is never read")
    with trio.fail_after(30):
        while turns < 20:
            assert await device.waiting.wait()
    nursery.cancel_scope.cancel()
