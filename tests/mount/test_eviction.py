"""If these fail, a full cache on a real mount grows past its limit, loses what is open, or stalls."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mount.conftest import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mount.mounted import Mounted

MIB = 1 << 20
CAPACITY = 32 * MIB


@pytest.fixture(scope="module", params=["writeback", "auto"])
def small(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mounted]:
    """A mount that may take 32 MiB, whatever is left of the tests before."""
    base = tmp_path_factory.mktemp("small")
    with mounted(base, request.param, "--capacity=32M", "--checkpoint-interval=1") as one:
        yield one


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def empty(mount: Mounted) -> None:
    for name in os.listdir(mount.path):
        subprocess.run(["rm", "-rf", mount.path / name], check=True)


def du(mount: Mounted) -> int:
    total = 0
    for entry in os.scandir(mount.store / "segments"):
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat().st_blocks * 512
    return total


class Sampler(threading.Thread):
    """Looks every 10 ms what the segments take."""

    def __init__(self, mount: Mounted) -> None:
        super().__init__()
        self.mount = mount
        self.worst = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.01):
            self.worst = max(self.worst, du(self.mount))


@contextlib.contextmanager
def sampled(mount: Mounted) -> Iterator[Sampler]:
    sampler = Sampler(mount)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.ended.set()
        sampler.join()


RANK = """
import os, random, sys
folder, rank, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(rank)
for turn in range(count):
    with open(f"{folder}/r{rank}-{turn}", "wb", buffering=0) as file:
        left = 2_000_000
        while left:
            part = rng.randbytes(min(left, rng.choice((4000, 130_000, 1 << 20))))
            os.write(file.fileno(), part)
            left -= len(part)
"""


def test_four_writers_of_ten_times_the_capacity_never_pass_it(small: Mounted) -> None:
    empty(small)
    kept = noise(3 * MIB, 99)
    with (small.path / "open").open("wb+") as file, sampled(small) as sampler:
        file.write(kept)
        file.flush()
        count = 10 * CAPACITY // 4 // 2_000_000
        ranks = [
            subprocess.Popen([sys.executable, "-c", RANK, small.path, str(rank), str(count)])
            for rank in range(4)
        ]
        pressures = []
        while any(rank.poll() is None for rank in ranks):
            status = small.status()
            pressures.append(status["limits"]["pressure"])  # type: ignore[index]
            assert status["allocated_bytes"] <= CAPACITY  # type: ignore[operator]
            time.sleep(0.3)
        assert [rank.returncode for rank in ranks] == [0] * 4, small.log()
        file.seek(0)
        assert file.read() == kept
    assert sampler.worst <= CAPACITY, sampler.worst / CAPACITY
    assert max(pressures) <= 1.0
    left = sorted(os.listdir(small.path))
    assert "open" in left
    for rank in range(4):
        rng = random.Random(rank)
        for turn in range(count):
            want, size = [], 2_000_000
            while size:
                want.append(rng.randbytes(min(size, rng.choice((4000, 130_000, 1 << 20)))))
                size -= len(want[-1])
            with contextlib.suppress(FileNotFoundError):
                # What is still there is whole.
                assert (small.path / f"r{rank}-{turn}").read_bytes() == b"".join(want)
    assert "bug" not in small.log()


def test_no_room_is_enospc_at_once_and_the_mount_goes_on(small: Mounted) -> None:
    empty(small)
    data = noise(24 * MIB, 1)
    with (small.path / "held").open("wb+", buffering=0) as held, sampled(small) as sampler:
        held.write(data)
        begun = time.monotonic()
        with pytest.raises(OSError, match="No space left") as caught:
            fill(small.path / "more", 16 * MIB)
        assert caught.value.errno == errno.ENOSPC
        assert time.monotonic() - begun < 10
        # Duplicates need no room.
        (small.path / "copy").write_bytes(data)
        held.seek(0)
        assert held.read() == data
    assert (small.path / "copy").read_bytes() == data
    (small.path / "more").unlink(missing_ok=True)
    fill(small.path / "later", 24 * MIB)
    assert sorted(os.listdir(small.path)) == ["later"]
    assert sampler.worst <= CAPACITY


def fill(path: Path, size: int) -> None:
    with path.open("wb", buffering=0) as file:
        for number in range(size // MIB):
            file.write(random.Random(f"{path}{number}").randbytes(MIB))
        os.fsync(file.fileno())


def test_a_mapped_file_stays_and_what_is_gone_is_gone_for_everybody(small: Mounted) -> None:
    empty(small)
    data = noise(4 * MIB, 5)
    (small.path / "mapped").write_bytes(data)
    (small.path / "folder").mkdir()
    (small.path / "folder" / "file").write_bytes(noise(4 * MIB, 6))
    assert sorted(os.listdir(small.path)) == ["folder", "mapped"]
    with (small.path / "mapped").open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for number in range(4):
        fill(small.path / f"f{number}", 8 * MIB)
        os.utime(small.path / f"f{number}")
    assert view[:] == data
    view.close()
    names = os.listdir(small.path)
    assert "mapped" in names
    if "folder" not in names:  # its maker, this process, lives: it stays if owners are known
        assert not (small.path / "folder" / "file").exists()


def test_a_folder_of_a_dead_process_goes_first(small: Mounted) -> None:
    empty(small)
    (small.path / "oldest").write_bytes(noise(4 * MIB, 7))
    make = "import os, sys; os.mkdir(sys.argv[1]); open(sys.argv[1] + '/f', 'wb').write(os.urandom(4 << 20))"
    subprocess.run([sys.executable, "-c", make, small.path / "dead"], check=True)
    (small.path / "alive").mkdir()
    (small.path / "alive" / "f").write_bytes(noise(4 * MIB, 8))
    assert small.status()["limits"]["owners"] == "known"  # type: ignore[index]
    fill(small.path / "f0", 8 * MIB)
    fill(small.path / "f1", 11 * MIB)
    assert within(5, lambda: not (small.path / "dead").exists())
    assert {"oldest", "alive"} <= set(os.listdir(small.path))


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_pins_hold_and_show_as_an_attribute(small: Mounted) -> None:
    empty(small)
    (small.path / "stays").write_bytes(noise(4 * MIB, 9))
    os.setxattr(small.path / "stays", "user.dedupfs.pin", b"1")
    for number in range(5):
        fill(small.path / f"f{number}", 8 * MIB)
    assert os.getxattr(small.path / "stays", "user.dedupfs.pin") == b"1"
    assert (small.path / "stays").read_bytes() == noise(4 * MIB, 9)
    os.setxattr(small.path / "stays", "user.dedupfs.pin", b"0")
    (small.path / "dir").mkdir()
    (small.path / "dir" / "in").write_bytes(b"1")
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(small.path / "dir" / "in", "user.dedupfs.pin", b"1")
