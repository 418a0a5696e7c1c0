"""The ways a mount ends: whatever the way, what was written is there afterwards."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mount.mounted import (
    Mounted,
    command_environment,
    dedupfs,
    is_mounted,
    one_line,
    wait_gone,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOLD = "import os, sys, time; {what}; print('ready', flush=True); time.sleep(600)"


@contextlib.contextmanager
def holding(what: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that does `what` (Python) and keeps it."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.format(what=what)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os.chdir({path!r})", "working directory"),
        ("f = open({path!r} + '/f')", "open file"),
        ("d = os.open({path!r}, os.O_RDONLY)", "open file"),
        (
            "import mmap; f = open({path!r} + '/f', 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1); f.close()",
            "f",
        ),
        (
            "import socket; s = socket.socket(socket.AF_UNIX); s.bind({path!r} + '/s'); s.listen()",
            "bound socket",
        ),
    ],
    ids=["cwd", "file", "directory", "map", "socket"],
)
def test_umount_says_who_keeps_the_mount_busy(mount: Mounted, what: str, said: str) -> None:
    (mount.path / "f").write_text("content")
    (mount.path / "s").unlink(missing_ok=True)
    with holding(what.format(path=str(mount.path))) as process:
        done = dedupfs("umount", mount.path)
        assert done.returncode == 1
        assert "is busy" in done.stderr
        assert f"pid {process.pid} (" in done.stderr
        assert said in done.stderr
        assert f"pid {mount.pid} " not in done.stderr
    assert mount.alive()


def test_umount_from_inside_is_not_kept_busy_by_itself(tmp_path: Path) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "dedupfs.cli", "umount", "."],
            cwd=one.path, env=command_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert not is_mounted(one.path)
    finally:
        one.clear()


def test_umount_names_a_mount_inside(mount: Mounted) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    inner = mount.path / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(inner)], check=True)
    try:
        done = dedupfs("umount", mount.path)
        assert done.returncode == 1
        assert f"mounted inside it: {inner}" in done.stderr
    finally:
        subprocess.run(["umount", str(inner)], check=True)


def test_umount_returns_after_everything_is_on_disk(new_mount: Callable[..., Mounted]) -> None:
    one = new_mount()
    content = os.urandom(20 << 20)
    (one.path / "f").write_bytes(content)
    one.remount()
    assert (one.path / "f").read_bytes() == content


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_mount_cleanly(tmp_path: Path, number: int) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        (one.path / "f").write_bytes(b"content" * 100_000)
        os.kill(one.pid, number)
        assert wait_gone(one.pid)
        assert not is_mounted(one.path)
        assert "all is on disk" in one.log()
        one.start()
        assert (one.path / "f").read_bytes() == b"content" * 100_000
        one.stop()
    finally:
        one.clear()


@pytest.mark.parametrize("io", ["writeback", "passthrough"])
def test_a_signal_to_a_busy_mount_keeps_what_was_written(tmp_path: Path, io: str) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "store", io)
    content = os.urandom(3_000_000)
    try:
        one.start()
        with open(one.path / "f", "w+b") as file, open(one.path / "m", "w+b") as mapped:
            file.write(content)
            file.flush()
            mapped.truncate(100_000)
            with mmap.mmap(mapped.fileno(), 100_000) as pages:
                pages[:] = content[:100_000]
                os.kill(one.pid, signal.SIGTERM)
                assert wait_gone(one.pid), one.log()
            assert not is_mounted(one.path)
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):
                mapped.close()
        one.start()
        assert (one.path / "f").read_bytes() == content
        assert (one.path / "m").read_bytes() == content[:100_000]
        one.stop()
    finally:
        one.clear()


@pytest.mark.parametrize("command", [["umount"], ["fusermount3", "-u"]])
def test_other_ways_to_unmount_lose_nothing(tmp_path: Path, command: list[str]) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        (one.path / "f").write_bytes(b"content" * 100_000)
        subprocess.run([*command, str(one.path)], check=True)
        one.start()  # at once: the old daemon may still flush
        assert (one.path / "f").read_bytes() == b"content" * 100_000
        one.stop()
    finally:
        one.clear()


def test_a_mount_taken_away_lazily_goes_on_for_its_users(tmp_path: Path) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        with open(one.path / "f", "w") as file:
            file.write("early")
            subprocess.run(["umount", "-l", str(one.path)], check=True)
            file.write("late")
        assert wait_gone(one.pid)
        one.start()
        assert (one.path / "f").read_text() == "earlylate"
        one.stop()
    finally:
        one.clear()


def kill(one: Mounted) -> None:
    os.kill(one.pid, signal.SIGKILL)
    assert wait_gone(one.pid)
    assert is_mounted(one.path), "a killed daemon leaves its mount"


def test_a_stale_mount_is_cleared_by_mount(tmp_path: Path) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        (one.path / "f").write_text("kept")
        kill(one)
        one.start()
        assert (one.path / "f").read_text() == "kept"
        one.stop()
    finally:
        one.clear()


def test_a_stale_mount_is_cleared_by_umount_and_does_not_harm_status(tmp_path: Path) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        (one.path / "f").write_text("kept")
        kill(one)
        assert one.status()["pid"] is None
        again = f"dedupfs mount {one.path}"
        assert again in " ".join(dedupfs("status", one.path).stdout.split())
        for words in ("du", "stat", "why", "pin", "evict", "gc", "report page.html", "estimate"):
            told = dedupfs(*words.split(), one.path)
            assert told.returncode == 1
            assert "daemon has died" in one_line(told.stderr), words
        done = dedupfs("umount", one.path)
        assert done.returncode == 0
        assert "stale" in one_line(done.stdout)
        assert not is_mounted(one.path)
    finally:
        one.clear()


@contextlib.contextmanager
def foreground(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [str(word) for word in command],
        env=command_environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_mounted(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not is_mounted(path):
        assert time.monotonic() < deadline, "not mounted in 20 s"
        time.sleep(0.05)
    os.stat(path)


@pytest.mark.parametrize("end", ["signal", "umount"])
def test_in_the_foreground_it_logs_to_stderr_and_exits_0(tmp_path: Path, end: str) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    command = [sys.executable, "-m", "dedupfs.cli", "mount", mnt, "--foreground"]
    with foreground(*command) as process:
        wait_mounted(mnt)
        if end == "signal":
            process.send_signal(signal.SIGINT)
        else:
            subprocess.run(["umount", str(mnt)], check=True)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0
    assert "mounted on" in said
    assert "Traceback" not in said
    assert not (tmp_path / ".mnt.dedupfs" / "dedupfs.log").exists()
    assert not is_mounted(mnt)


def test_it_ends_on_sigterm_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("unshare needs root")
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    command = [sys.executable, "-m", "dedupfs.cli", "mount", str(mnt), "--foreground"]
    with foreground("unshare", "--pid", "--fork", "--kill-child", *command) as outer:
        wait_mounted(mnt)
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        outer.communicate(timeout=20)
        assert outer.returncode == 0
    assert not is_mounted(mnt)


def test_umount_does_not_wait_for_ever_for_another_mount_namespace(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("unshare needs root")
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        with subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 600"],
            stdout=subprocess.PIPE,
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            done = dedupfs("umount", one.path)
            other.kill()
        assert done.returncode == 1
        assert f"another mount namespace, that of pid {other.pid} (sleep 600)" in one_line(
            done.stderr
        )
        assert not is_mounted(one.path)
        assert wait_gone(one.pid)
    finally:
        one.clear()


def test_a_bug_is_logged_with_its_place_and_takes_the_mount_away(tmp_path: Path) -> None:
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import trio\n"
        "from dedupfs.service import daemon\n"
        "async def broken(store):\n"
        "    await trio.sleep(1)\n"
        "    raise ZeroDivisionError('boom')\n"
        "daemon._reclaim = broken\n"
    )
    environment = command_environment()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    with subprocess.Popen(
        [sys.executable, "-m", "dedupfs.cli", "mount", str(mnt), "--foreground"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_mounted(mnt)
        (mnt / "f").write_text("kept")
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" in said
    assert "in broken" in said
    assert not is_mounted(mnt)
    one = Mounted(mnt, tmp_path / ".mnt.dedupfs")
    try:
        one.start()
        assert (mnt / "f").read_text() == "kept"
        one.stop()
    finally:
        one.clear()


def test_status_after_a_kill_knows_the_last_operation(tmp_path: Path) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        (one.path / "f").write_text("kept")
        kill(one)
        assert one.status()["files"] == 1
    finally:
        one.clear()
