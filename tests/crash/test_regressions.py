"""Losses that the crash tests found, each by itself and at its smallest."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

from crash.history import abandon
from dedupfs.core.types import ROOT_INO
from dedupfs.store.store import Store
from vfs.world import USER, World

if TYPE_CHECKING:
    from pathlib import Path

LARGE_BYTES = 400_000  # enough for a segment of its own


async def test_regression_two_open_segments(tmp_path: Path) -> None:
    """A kill while two large files were being written removed the bytes of the first."""
    world = World(tmp_path / "store")
    contents = [random.Random(number).randbytes(LARGE_BYTES) for number in range(3)]
    for number, content in enumerate(contents):
        _made, handle = world.vfs.create(ROOT_INO, b"f%d" % number, 0o600, USER, os.O_RDWR)
        world.vfs.write(handle, 0, content)
        world.vfs.flush(handle)
    world.crash()
    for number, content in enumerate(contents):
        assert await world.content(world.look(b"f%d" % number).ino) == content
    world.close()


def test_regression_power_cut_while_a_store_is_made(tmp_path: Path) -> None:
    """FORMAT was not synced: empty after a power cut, it made the store refuse to open for ever."""
    Store.open(tmp_path / "store").close()
    (tmp_path / "store" / "FORMAT").write_bytes(b"")
    abandon(Store.open(tmp_path / "store"))
    assert (tmp_path / "store" / "FORMAT").read_bytes()
