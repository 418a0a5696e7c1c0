"""`dedupfs mount` and `status` on a real mount: what a person or a script relies on."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.fuse import passthrough
from mount.mounted import (
    Mounted,
    command_environment,
    dedupfs,
    is_mounted,
    is_running,
    one_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable


# --- mount ---


def test_the_mount_answers_when_the_command_returns(mount: Mounted) -> None:
    (mount.path / "hello").write_text("world")
    assert (mount.path / "hello").read_text() == "world"
    assert os.stat(mount.path).st_dev != os.stat(mount.path.parent).st_dev


def test_the_daemon_is_a_process_of_its_own(mount: Mounted) -> None:
    process = Path(f"/proc/{mount.pid}")
    assert os.readlink(process / "cwd") == "/"
    assert os.getsid(mount.pid) == mount.pid
    for fd in (0, 1, 2):
        assert os.readlink(process / "fd" / str(fd)) == "/dev/null"
    soft, hard = (process / "limits").read_text().split("Max open files")[1].split()[:2]
    assert soft == hard


def test_the_log_is_in_the_store(mount: Mounted) -> None:
    assert "mounted on" in mount.log()


def test_the_mount_table_names_the_store(mount: Mounted) -> None:
    line = next(
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f" {mount.path} " in line
    )
    assert f" - fuse.dedupfs {mount.store} " in line


def test_a_second_mount_on_it_is_refused(mount: Mounted) -> None:
    done = dedupfs("mount", mount.path, "--store", mount.store.parent / "other")
    assert done.returncode == 1
    assert "already a dedupfs mount" in one_line(done.stderr)


def test_a_store_in_use_names_the_process(mount: Mounted, tmp_path: Path) -> None:
    started = time.monotonic()
    done = dedupfs("mount", tmp_path, "--store", mount.store)
    assert done.returncode == 1
    assert "in use" in one_line(done.stderr)
    assert str(mount.pid) in done.stderr
    assert time.monotonic() - started < 10
    assert mount.alive()
    assert mount.status()["pid"] == mount.pid


@pytest.mark.parametrize(
    ("marker", "other", "part"),
    [
        (None, "letters.txt", "not a dedupfs store and not empty"),
        ("something else\n", None, "does not say what store"),
        ("dedupfs store, format 999\n", None, "has format 999"),
    ],
)
def test_a_store_that_is_none_or_newer_is_refused_and_untouched(
    tmp_path: Path, marker: str | None, other: str | None, part: str
) -> None:
    (tmp_path / "mnt").mkdir()
    store = tmp_path / "store"
    store.mkdir()
    if other:
        (store / other).write_text("mine")
    if marker:
        (store / "FORMAT").write_text(marker)
    before = sorted(os.listdir(store))
    done = dedupfs("mount", tmp_path / "mnt", "--store", store)
    assert done.returncode == 1
    assert part in one_line(done.stderr)
    assert sorted(os.listdir(store)) == before
    assert not is_mounted(tmp_path / "mnt")


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    done = dedupfs("mount", tmp_path / "mnt", "--store", "/proc/self/store")
    assert done.returncode == 1
    assert "store" in one_line(done.stderr)
    done = dedupfs("mount", tmp_path / "mnt", "--store", "/sys/kernel/store")
    assert done.returncode == 1
    assert "/sys/kernel/store" in one_line(done.stderr)


def test_a_log_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    done = dedupfs("mount", tmp_path / "mnt", "--log-file", tmp_path / "no" / "log")
    assert done.returncode == 1
    assert "No such file" in one_line(done.stderr)
    assert not is_mounted(tmp_path / "mnt")


def test_why_the_kernel_refused_is_told(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    done = dedupfs("mount", tmp_path / "mnt", "-o", "rootcontext=nonsense")
    assert done.returncode == 1
    assert "fuse: mount failed: Invalid argument" in one_line(done.stderr)
    assert not is_mounted(tmp_path / "mnt")


def test_a_start_that_dies_is_reported(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pyfuse3.py").write_text("raise ImportError('no libfuse here')\n")
    environment = command_environment()
    environment["PYTHONPATH"] = f"{tmp_path / 'broken'}:{environment['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "dedupfs.cli", "mount", str(tmp_path / "mnt")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no libfuse here" in one_line(done.stderr)


@pytest.mark.parametrize("names", [["s0"] * 4, ["s0", "s1", "s2", "s3"]], ids=["same", "other"])
def test_of_mounts_started_at_once_one_wins(tmp_path: Path, names: list[str]) -> None:
    one = Mounted(tmp_path / "mnt", tmp_path / "s0")
    one.path.mkdir()
    try:
        ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "dedupfs.cli",
                    "mount",
                    one.path,
                    "--store",
                    tmp_path / name,
                ],
                env=command_environment(),
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        said = [rank.communicate(timeout=60)[1] for rank in ranks]
        assert sorted(rank.returncode for rank in ranks) == [0, 1, 1, 1], said
        for rank, text in zip(ranks, said, strict=True):
            if rank.returncode:
                assert "is already a dedupfs mount" in one_line(text) or "in use" in text
            else:
                assert text == ""
        status = one.status()
        one.store, one.pid = Path(str(status["store"])), int(str(status["pid"]))
        one.stop()
    finally:
        one.clear()


def test_odd_paths_work(tmp_path: Path) -> None:
    base = tmp_path / "a b,c\\d#e'f\"ü"
    base.mkdir()
    one = Mounted(base / "mnt, x=1", base / "store, y\\z")
    try:
        one.start()
        (one.path / "f").write_text("x")
        assert one.status()["store"] == str(one.store)
        assert one.status()["mountpoint"] == str(one.path)
        one.stop()
    finally:
        one.clear()


def test_the_default_store_is_a_sibling_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "link").symlink_to("cache")
    one = Mounted(tmp_path / "cache", tmp_path / ".cache.dedupfs")
    try:
        assert dedupfs("mount", tmp_path / "link").returncode == 0
        one.pid = one.status_number("pid")
        assert one.status()["store"] == str(one.store)
        assert dedupfs("umount", tmp_path / "link").returncode == 0
        assert not is_mounted(one.path)
    finally:
        one.clear()


def test_mount_options_reach_the_kernel(new_mount: Callable[..., Mounted]) -> None:
    one = new_mount("-o", "ro,noexec,noatime,nofail", "--allow-other")
    with pytest.raises(OSError, match="Read-only"):
        (one.path / "f").touch()
    line = next(
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(one.path) in line
    )
    for word in ("ro", "noexec", "noatime", "allow_other", "default_permissions"):
        assert word in line


@pytest.mark.parametrize("io", ["auto", "passthrough", "writeback"])
def test_status_says_which_io_mode_is_in_force(new_mount: Callable[..., Mounted], io: str) -> None:
    status = new_mount(io=io).status()
    can_pass = passthrough.why_not() is None
    auto = "passthrough" if can_pass else "writeback"
    assert status["io_mode"] == (auto if io == "auto" else io)
    assert ("no passthrough" in str(status["io_reason"])) == (io != "writeback" and not can_pass)


# --- status ---


def test_status_is_live(mount: Mounted) -> None:
    before = mount.status()
    content = os.urandom(300_000)
    for name in ("one", "two", "three"):
        (mount.path / name).write_bytes(content)
    after = mount.status()
    assert after["mountpoint"] == str(mount.path)
    assert after["pid"] == mount.pid
    assert isinstance(after["uptime_s"], int)

    def grown(key: str) -> int:
        return int(str(after[key])) - int(str(before[key]))

    assert grown("files") == 3
    assert grown("logical_bytes") == 900_000
    assert 300_000 <= grown("live_bytes") < 310_000
    assert 300_000 <= grown("allocated_bytes") < 400_000
    requests = after["requests"]
    assert isinstance(requests, dict)
    assert sum(requests.values()) > 0


def test_allocated_bytes_agree_with_du(mount: Mounted) -> None:
    (mount.path / "big").write_bytes(os.urandom(8 << 20))
    du = subprocess.run(
        ["du", "-s", "--block-size=1", str(mount.store / "segments")],
        capture_output=True,
        text=True,
        check=True,
    )
    allocated = mount.status_number("allocated_bytes")
    assert allocated == pytest.approx(int(du.stdout.split()[0]), rel=0.01)


def test_status_without_arguments_lists_every_mount(mount: Mounted) -> None:
    done = dedupfs("status", "--json")
    assert done.stdout, done.stderr
    assert str(mount.path) in [one["mountpoint"] for one in json.loads(done.stdout)]
    assert str(mount.path) in dedupfs("status").stdout


def test_status_of_a_store_is_live_while_it_is_mounted(mount: Mounted) -> None:
    for arguments in (["--store", mount.store], [mount.store]):
        assert json.loads(dedupfs("status", "--json", *arguments).stdout)["pid"] == mount.pid


def test_status_is_the_same_offline(new_mount: Callable[..., Mounted]) -> None:
    one = new_mount()
    (one.path / "a").write_bytes(b"x" * 100_000)
    (one.path / "d").mkdir()
    one.stop()
    offline = json.loads(dedupfs("status", "--json", "--store", one.store).stdout)
    assert offline["mountpoint"] is None
    assert offline["pid"] is None
    assert not (one.store / "control.sock").exists()
    one.start()
    live = one.status()
    for key in ("files", "directories", "logical_bytes", "live_bytes", "allocated_bytes"):
        assert live[key] == offline[key]
    assert live["files"] == 1


# --- the control socket of a real daemon ---


def test_a_broken_control_client_does_not_stop_the_mount(mount: Mounted) -> None:
    folder = os.open(mount.store, os.O_RDONLY)
    try:
        address = f"/proc/self/fd/{folder}/control.sock"
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(address)
            link.send(b"\xff" * 100)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(address)
            assert mount.status()["pid"] == mount.pid
            ready, _, _ = select.select([silent], [], [], 15)
            assert ready, "a silent client is dropped"
    finally:
        os.close(folder)
    assert is_running(mount.pid)
