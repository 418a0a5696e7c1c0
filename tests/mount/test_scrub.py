"""If these fail, a user is not told of rotten files, or told the wrong ones, or not rid of them."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mount.mounted import command_environment, dedupfs, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mount.mounted import Mounted

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def rot(mount: Mounted, at: int) -> None:
    """Change bytes in the greatest segment."""
    path = max((mount.store / "segments").iterdir(), key=lambda one: one.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"rot")


def scrub(*arguments: str | Path, code: int) -> dict[str, object]:
    done = dedupfs("scrub", *arguments, "--json")
    assert done.returncode == code, done.stderr + done.stdout
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("io", ["writeback", "auto"])
def test_damage_is_found_refused_named_and_healed_on_a_live_mount(
    new_mount: Callable[..., Mounted], io: str
) -> None:
    mount = new_mount(io=io)
    data = noise(4 * MIB)
    (mount.path / "a").mkdir()
    for name in ("a/one", "two"):
        (mount.path / name).write_bytes(data)
    (mount.path / "sound").write_bytes(noise(MIB, 2))
    assert scrub(mount.path, code=0)["files"] == []
    rot(mount, 2 * MIB)
    document = scrub(mount.path, code=1)
    assert document["state"] == "done"
    files = document["files"]
    assert isinstance(files, list)
    assert [file["paths"] for file in files] == [["/a/one"], ["/two"]]
    for name in ("a/one", "two"):
        with pytest.raises(OSError, match="Input/output error") as caught:
            (mount.path / name).read_bytes()
        assert caught.value.errno == errno.EIO
    assert (mount.path / "sound").read_bytes() == noise(MIB, 2)
    (mount.path / "three").write_bytes(data)
    for name in ("a/one", "two", "three"):
        assert (mount.path / name).read_bytes() == data
    assert scrub(mount.path, code=0)["damaged_bytes"] == 0


def test_a_store_without_a_mount_is_scrubbed_too(new_mount: Callable[..., Mounted]) -> None:
    mount = new_mount()
    (mount.path / "one\nline").write_bytes(noise(2 * MIB))
    mount.stop()
    rot(mount, MIB)
    try:
        done = dedupfs("scrub", mount.store)
        assert done.returncode == 1
        assert "are damaged, in 1 files:\n  '/one\\nline'" in done.stdout
        assert scrub(mount.store, code=1)["damaged_files"] == 1
    finally:
        mount.start()
    with pytest.raises(OSError, match="Input/output error"):
        (mount.path / "one\nline").read_bytes()


def test_an_interrupted_scrub_stops_and_goes_on(new_mount: Callable[..., Mounted]) -> None:
    mount = new_mount()
    (mount.path / "one").write_bytes(noise(8 * MIB))
    scrubbing = subprocess.Popen(
        [sys.executable, "-P", "-m", "dedupfs.cli", "scrub", mount.path, "--rate", "2M"],
        env=command_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)
    (mount.path / "two").write_bytes(b"requests go on")
    scrubbing.send_signal(signal.SIGINT)
    _, complaint = scrubbing.communicate(timeout=20)
    assert scrubbing.returncode == 130, complaint
    assert one_line(complaint).endswith("the next one goes on from here")
    document = scrub(mount.path, code=0)
    assert document["resumed"] is True
    assert document["checked_bytes"] == 8 * MIB
    assert scrub(mount.path, code=0)["resumed"] is False


def test_a_scrub_that_cannot_run_says_so(tmp_path: Path) -> None:
    for arguments in ([tmp_path], [tmp_path / "none"], [tmp_path, "--rate", "fast"], []):
        done = dedupfs("scrub", *arguments)
        assert done.returncode == 2
        assert one_line(done.stderr).startswith("dedupfs: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--verify-reads"], ["-o", "verify_reads"]])
def test_verified_reads_refuse_what_rotted_unnoticed(
    new_mount: Callable[..., Mounted], arguments: list[str]
) -> None:
    mount = new_mount(*arguments)
    data = noise(3 * MIB)
    (mount.path / "one").write_bytes(data)
    mount.stop()
    rot(mount, MIB)
    mount.start()
    with pytest.raises(OSError, match="Input/output error"):
        (mount.path / "one").read_bytes()
    (mount.path / "two").write_bytes(data)
    assert (mount.path / "one").read_bytes() == data
    fd = os.open(mount.path / "one", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, len(data), 0) == data
    os.close(fd)


def test_the_checkpoint_interval_is_checked(tmp_path: Path) -> None:
    for arguments in (["--checkpoint-interval", "0"], ["-o", "checkpoint_interval=x"]):
        done = dedupfs("mount", tmp_path, *arguments)
        assert done.returncode == 2
        assert "want a time above 0" in one_line(done.stderr)
