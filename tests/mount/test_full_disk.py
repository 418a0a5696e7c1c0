"""If these fail, a full disk ends the mount, takes what was acknowledged, or stays full for ever."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mount.conftest import mounted
from mount.mounted import Mounted, command_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MIB = 1 << 20
INTERVAL_S = 1.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture(params=["writeback", "auto"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    """A mount whose store lies on a file system of 64 MiB."""
    base = tmp_path / "fs"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", base], check=True)
    try:
        interval = f"--checkpoint-interval={INTERVAL_S:g}"
        # Else room is made before the disk is full.
        with mounted(base, request.param, interval, "--min-free=0") as one:
            yield one
    finally:
        subprocess.run(["umount", "-l", base], check=True)


def write(path: Path, data: bytes) -> None:
    """Write a file that is acknowledged when this returns."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        done = 0
        while done < len(data):
            done += os.write(fd, data[done : done + 300_000])
        os.fsync(fd)
    finally:
        os.close(fd)


def write_until_full(small: Mounted, size: int) -> dict[str, bytes]:
    """Write files until one is refused; return those that were acknowledged."""
    kept: dict[str, bytes] = {}
    for number in range(3000):
        data = noise(size, 1000 + number)
        try:
            write(small.path / f"f{number}", data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            with contextlib.suppress(FileNotFoundError):
                (small.path / f"f{number}").unlink()
            return kept
        kept[f"f{number}"] = data
    raise AssertionError("never full")


def fill(small: Mounted) -> None:
    """Let another program take the rest of the disk."""
    with contextlib.suppress(OSError), (small.store.parent / "filler").open("wb", 0) as file:
        while True:
            file.write(bytes(4096))


def check(small: Mounted, kept: dict[str, bytes]) -> None:
    for name, data in kept.items():
        assert (small.path / name).read_bytes() == data, name


def within(seconds: float, is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def free_bytes(small: Mounted) -> int:
    room = os.statvfs(small.store)
    return room.f_bavail * room.f_frsize


@pytest.mark.parametrize("size", [50_000, 3 * MIB])
def test_a_full_disk_refuses_writers_and_gives_space_back(small: Mounted, size: int) -> None:
    kept = write_until_full(small, size)
    assert kept
    fill(small)
    check(small, kept)
    small.remount()
    check(small, kept)
    fill(small)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(small.path / "more", noise(MIB, 5))
    assert caught.value.errno == errno.ENOSPC
    before = free_bytes(small)
    removed = 0
    for name in list(kept):
        (small.path / name).unlink()
        removed += len(kept.pop(name))
        if removed > 12 * MIB:
            break
    # The reserve may have to be filled up again first.
    assert within(2 * INTERVAL_S + 4, lambda: free_bytes(small) > before + 2 * MIB), small.log()
    with contextlib.suppress(FileNotFoundError):
        (small.path / "more").unlink()
    assert within(5, lambda: can_write(small.path / "again")), small.log()
    check(small, kept)
    (small.store.parent / "filler").unlink()
    small.remount()
    check(small, kept)
    assert (small.path / "again").read_bytes() == noise(MIB, 6)
    assert "Traceback" not in small.log()
    assert "bug" not in small.log()


def can_write(path: Path) -> bool:
    try:
        write(path, noise(MIB, 6))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def test_a_killed_daemon_on_a_full_disk_starts_again(small: Mounted) -> None:
    kept = write_until_full(small, 400_000)
    fill(small)
    os.kill(small.pid, 9)
    small.clear()
    small.start()
    check(small, kept)


def test_few_file_descriptors_slow_a_mount_down_but_do_not_break_it(tmp_path: Path) -> None:
    mount = Mounted(tmp_path / "mnt", tmp_path / "store")
    mount.path.mkdir()
    command = [sys.executable, "-P", "-m", "dedupfs.cli", "mount", mount.path]
    options = ["--store", mount.store, "--checkpoint-interval", "60"]
    try:
        subprocess.run(
            ["prlimit", "--nofile=128:128", *command, *options],
            env=command_environment(),
            check=True,
        )
        mount.pid = mount.status_number("pid")
        assert resource.prlimit(mount.pid, resource.RLIMIT_NOFILE) == (128, 128)
        use_many_segments(mount)
        mount.stop()
    finally:
        mount.clear()


def use_many_segments(mount: Mounted) -> None:
    for number in range(200):
        (mount.path / f"f{number}").write_bytes(noise(300_000, number))
    for number in range(200):
        assert (mount.path / f"f{number}").read_bytes() == noise(300_000, number)
    assert "bug" not in mount.log()


def test_space_comes_back_within_the_checkpoint_interval(
    new_mount: Callable[..., Mounted],
) -> None:
    mount = new_mount("-o", "checkpoint_interval=0.5")
    (mount.path / "one").write_bytes(noise(8 * MIB))
    assert mount.status_number("allocated_bytes") >= 8 * MIB
    (mount.path / "one").unlink()
    assert within(5, lambda: mount.status_number("allocated_bytes") < MIB)
