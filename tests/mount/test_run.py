"""`dedupfs run`: what a job loses if it fails is its exit code, its signals, or its mount point."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from dedupfs.service import mounts
from dedupfs.service.options import MountOptions
from dedupfs.service.sharing import End, take
from mount.mounted import Mounted, command_environment, dedupfs, is_mounted, one_line, wait_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def started(*arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dedupfs.cli", *map(str, arguments)],
        env=command_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def wait_for(what: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.fixture
def over(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "over"
    yield path
    left = is_mounted(path)
    if left:
        subprocess.run(["umount", "-l", str(path)], check=False)
    assert not left, "a mount was left behind"


def test_it_mounts_runs_reports_and_unmounts(over: Path) -> None:
    script = f"head -c 3000000 /dev/urandom >{over}/a; cat {over}/a >{over}/b; exit 7"
    done = dedupfs("run", "--over", over, "--", "sh", "-c", script)
    assert done.returncode == 7
    assert "5.7 MiB written, 2.9 MiB of it new: saved 2.9 MiB (50.0 %)" in done.stderr
    assert "holds 2 files of 5.7 MiB" in done.stderr
    assert not is_mounted(over)
    assert list(over.iterdir()) == []
    again = dedupfs("run", "-q", "--over", over, "--", "cmp", over / "a", over / "b")
    assert (again.returncode, again.stderr) == (0, "")


def test_what_cannot_be_run_is_one_line_and_leaves_nothing(over: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    cases: list[tuple[list[str | Path], int, str]] = [
        (["nosuchcommand"], 127, "nosuchcommand: command not found"),
        ([tmp_path / "plain"], 126, "Permission denied"),
    ]
    for command, code, part in cases:
        done = dedupfs("run", "--over", over, "--", *command)
        assert (done.returncode, part in one_line(done.stderr)) == (code, True)
        assert not is_mounted(over)


def test_a_folder_with_files_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = dedupfs("run", "--over", tmp_path, "--", "true")
    assert done.returncode == 1
    assert f"dedupfs import {tmp_path}" in one_line(done.stderr)


def test_a_signal_that_ends_the_command_is_128_and_its_number(over: Path) -> None:
    assert dedupfs("run", "-q", "--over", over, "--", "sh", "-c", "kill -9 $$").returncode == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_reach_the_whole_group_and_the_mount_ends(over: Path, number: int) -> None:
    name = signal.Signals(number).name.removeprefix("SIG")
    child = (
        ""
        if number == signal.SIGINT
        else (f"(trap 'touch {over}/child; exit' {name}; while :; do sleep 0.05; done) & ")
    )
    script = f"trap 'wait; exit 5' {name}; {child} touch {over}/up; while :; do sleep 0.05; done"
    with started("run", "-q", "--over", over, "--", "sh", "-c", script) as running:
        wait_for((over / "up").exists)
        running.send_signal(number)
        assert running.wait(30) == 5
    assert not is_mounted(over)
    # A shell lets what it starts with & ignore SIGINT.
    if number != signal.SIGINT:
        look = dedupfs("run", "-q", "--over", over, "--", "test", "-e", over / "child")
        assert look.returncode == 0


def test_ctrl_c_at_a_terminal_reaches_the_command_once(over: Path) -> None:
    script = f"n=0; trap 'n=$((n+1))' INT; touch {over}/up; sleep 1; sleep 0.5; exit $((40+n))"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(  # noqa: S606 - the child of pty.fork
            sys.executable,
            [sys.executable, "-P", "-m", "dedupfs.cli", "run", "-q", "--over", str(over),
             "--", "sh", "-c", script],
            command_environment(),
        )  # fmt: skip
    wait_for((over / "up").exists)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 41
    assert not is_mounted(over)


def test_four_runs_at_once_share_a_mount_and_the_last_one_ends_it(over: Path) -> None:
    script = f"head -c 200000 /dev/zero | tr '\\0' x >{over}/$0; sleep 0.$0"
    ranks = [
        started("run", "--over", over, "--", "sh", "-c", script, str(rank)) for rank in range(1, 5)
    ]
    said = [rank.communicate(timeout=60)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4, said
    assert not is_mounted(over)
    look = "; ".join(f"cmp {over}/1 {over}/{rank}" for rank in range(2, 5))
    assert dedupfs("run", "-q", "--over", over, "--", "sh", "-ec", look).returncode == 0


def test_nested_runs_leave_the_mount_to_the_outer_one(over: Path) -> None:
    inner = f"{sys.executable} -P -m dedupfs.cli run -q --over {over} -- touch {over}/in"
    script = f"{inner} && test -e {over}/in && mountpoint -q {over}"
    done = dedupfs("run", "-q", "--over", over, "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mount_made_by_hand_is_used_and_stays(new_mount: Callable[..., Mounted]) -> None:
    one = new_mount()
    done = dedupfs("run", "-q", "--over", one.path, "--", "touch", one.path / "f")
    assert (done.returncode, done.stderr) == (0, "")
    assert one.alive()
    other = dedupfs("run", "--over", one.path, "--store", one.store.parent / "x", "--", "true")
    assert other.returncode == 1
    assert f"is mounted with the store {one.store}" in one_line(other.stderr)


def test_a_killed_run_leaves_its_mount_to_the_next(over: Path) -> None:
    script = f"echo $$ >{over}/up; exec sleep 60 >/dev/null 2>&1"
    with started("run", "-q", "--over", over, "--", "sh", "-c", script) as running:
        wait_for(lambda: (over / "up").exists() and (over / "up").read_text().endswith("\n"))
        running.kill()
        running.wait()
    assert is_mounted(over)
    os.kill(int((over / "up").read_text()), 9)
    done = dedupfs("run", "-q", "--over", over, "--", "test", "-e", over / "up")
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_mounted(over)


def test_a_dead_mount_is_replaced(over: Path) -> None:
    one = Mounted(over, over.with_name(".over.dedupfs"))
    try:
        one.start()
        os.kill(one.pid, signal.SIGKILL)
        wait_gone(one.pid)
        done = dedupfs("run", "-q", "--over", over, "--", "mountpoint", "-q", over)
        assert (done.returncode, done.stderr) == (0, "")
    finally:
        one.clear()


@pytest.mark.parametrize("place", ["file/under", "file", "/proc/nowhere"])
def test_a_place_where_nothing_can_be_mounted_is_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    done = dedupfs("run", "--over", tmp_path / place, "--", "true")
    assert done.returncode == 1
    assert str(tmp_path / place) in one_line(done.stderr)


def test_who_outlives_the_command_is_named_and_keeps_the_mount(over: Path) -> None:
    script = f"cd {over}; sleep 30 >/dev/null 2>&1 & echo $!"
    done = dedupfs("run", "--wait", "0.3", "--over", over, "--", "sh", "-c", script + " >&2")
    pid = next(word for word in done.stderr.split() if word.isdigit())
    try:
        assert done.returncode == 0
        assert f"stays mounted, used by pid {pid} (sleep 30)" in done.stderr
        assert is_mounted(over)
    finally:
        os.kill(int(pid), 9)
    wait_gone(int(pid))
    assert dedupfs("run", "-q", "--over", over, "--", "true").returncode == 0


def test_lazily_it_ends_with_its_last_user(over: Path) -> None:
    script = f"cd {over}; sleep 1 </dev/null >/dev/null 2>&1 &"
    done = dedupfs("run", "-q", "--wait", "0", "--lazy", "--over", over, "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_mounted(over)
    again = dedupfs("run", "-q", "--over", over, "--", "true")  # waits for the store
    assert (again.returncode, again.stderr) == (0, "")


def test_a_daemon_that_dies_meanwhile_is_told(over: Path) -> None:
    script = (
        f"kill -9 $({sys.executable} -P -m dedupfs.cli status {over} --json "
        "| sed -n 's/^  \"pid\": \\([0-9]*\\).*/\\1/p')"
    )
    done = dedupfs("run", "--over", over, "--", "sh", "-c", script)
    assert done.returncode == 1
    assert "its daemon has ended" in one_line(done.stderr)


def test_several_mounts_for_one_command(over: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    script = f"mountpoint -q {over} && mountpoint -q {two}"
    done = dedupfs("run", "-q", "--over", over, "--over", two, "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    same = dedupfs("run", "--over", over, "--over", two, "--store", tmp_path / "s", "--", "true")
    assert same.returncode == 2
    assert "several mounts cannot share a store" in one_line(same.stderr)


def test_a_forked_child_does_not_end_the_mount_of_its_parent(over: Path) -> None:
    mount = take(MountOptions(over, over.with_name("store")))
    child = os.fork()
    if child == 0:
        os._exit(0 if mount.end() is End.NOT_OURS else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert is_mounted(over)
    assert mount.end() is End.UNMOUNTED
    assert mount.end() is End.NOT_OURS
    assert mounts.mount_at(over) is None
