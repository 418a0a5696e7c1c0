"""Large writes go past pyfuse3 and are placed after the answer: not a byte may change by that.

What is lost if one fails: what a rank wrote.
"""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True)

MIB = 1 << 20
LARGE = 32 << 10  # LARGE_MIN of _replies.c


def write_in_calls(path: Path, data: bytes, sizes: list[int]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    view, at, turn = memoryview(data), 0, 0
    try:
        while at < len(data):
            at += os.write(fd, view[at : at + sizes[turn % len(sizes)]])
            turn += 1
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "sizes",
    [
        [LARGE - 1, LARGE, LARGE + 1],
        [1, MIB, 80, MIB - 1, 4096, MIB + 1],
        [300, 400_000, 8, 120, 1_000_003, 64, 1 << 19, 700],
        [5 * MIB],
    ],
    ids=["edge of large", "edge of a request", "as pyarrow", "many requests"],
)
def test_calls_of_any_size_read_back(mount: Mounted, sizes: list[int]) -> None:
    data = random.Random(str(sizes)).randbytes(12 * MIB + 4321)
    for name in ("first", "equal"):
        path = mount.path / name
        write_in_calls(path, data, sizes)
        assert path.read_bytes() == data
    for name in ("first", "equal"):
        (mount.path / name).unlink()
    assert mount.alive(), mount.log()


def test_writers_at_once_do_not_get_each_others_bytes(mount: Mounted) -> None:
    contents = [random.Random(n).randbytes(6 * MIB + n) for n in range(6)]
    names = [mount.path / f"at-once-{n}" for n in range(6)]
    threads = [
        threading.Thread(target=write_in_calls, args=(name, data, [MIB, 50, 200_000]))
        for name, data in zip(names, contents, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [name.read_bytes() == data for name, data in zip(names, contents, strict=True)] == [
        True
    ] * 6
    for name in names:
        name.unlink()
    assert mount.alive(), mount.log()
