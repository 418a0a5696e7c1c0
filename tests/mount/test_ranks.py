"""Ranks that all mount at once: one mounts, the others use it; a dead mount is replaced once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mount.mounted import Mounted, command_environment, dedupfs, one_line, wait_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

RANKS = 4


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Mounted]:
    mounted = Mounted(tmp_path / "mnt", tmp_path / "store")
    mounted.path.mkdir()
    yield mounted
    mounted.clear()


def mount_by_all_ranks(one: Mounted, *arguments: str) -> list[tuple[int, str, str]]:
    command = [sys.executable, "-P", "-m", "dedupfs.cli", "mount", str(one.path)]
    command += ["--store", str(one.store), *arguments]
    ranks = [
        subprocess.Popen(
            command,
            env=command_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(RANKS)
    ]
    done = []
    for rank in ranks:
        said, complained = rank.communicate(timeout=60)
        done.append((rank.returncode, said, complained))
    return done


def mounts_at(path: Path) -> int:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sum(line.split(" ")[4] == str(path) for line in lines)


@pytest.mark.parametrize("before", ["nothing", "a killed daemon"])
def test_with_if_mounted_ok_one_mounts_and_all_go_on(one: Mounted, before: str) -> None:
    if before != "nothing":
        one.start()
        (one.path / "f").write_text("kept")
        os.kill(one.pid, signal.SIGKILL)
        assert wait_gone(one.pid)
    done = mount_by_all_ranks(one, "--if-mounted", "ok")
    assert [code for code, _, _ in done] == [0] * RANKS, done
    one.pid = one.status_number("pid")
    said = sorted(text.strip() for _, text, _ in done)
    assert said == ["", *[f"{one.path} is mounted already (pid {one.pid})"] * (RANKS - 1)]
    assert mounts_at(one.path) == 1
    if before != "nothing":
        assert (one.path / "f").read_text() == "kept"
    one.stop()
    assert mounts_at(one.path) == 0


def test_without_it_one_mounts_and_the_others_are_told(one: Mounted) -> None:
    done = mount_by_all_ranks(one)
    assert sorted(code for code, _, _ in done) == [0, 1, 1, 1]
    for code, _, complained in done:
        assert code == 0 or "is already a dedupfs mount" in one_line(complained)
    one.pid = one.status_number("pid")
    assert mounts_at(one.path) == 1
    other = dedupfs("mount", one.path, "--store", one.store.parent / "s2", "--if-mounted", "ok")
    assert other.returncode == 1, "another store is another mount"
    assert "is already a dedupfs mount" in one_line(other.stderr)
    one.stop()


def test_a_killed_daemons_mount_is_replaced_while_processes_still_hold_it(one: Mounted) -> None:
    one.start()
    (one.path / "f").write_text("kept")
    with subprocess.Popen(["sleep", "600"], cwd=one.path) as holder:
        os.kill(one.pid, signal.SIGKILL)
        assert wait_gone(one.pid)
        try:
            one.start()
            assert (one.path / "f").read_text() == "kept"
            assert mounts_at(one.path) == 1
        finally:
            holder.kill()
    one.stop()


def test_a_mount_tells_its_options_and_where_each_came_from(
    one: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEDUPFS_CAPACITY", "200G")
    one.arguments += ["--log-format", "json", "-o", "log_level=debug"]
    one.start()
    monkeypatch.delenv("DEDUPFS_CAPACITY")
    found = json.loads(dedupfs("config", "show", one.path, "--json").stdout)
    assert found["mounted"] is True
    assert found["options"]["capacity"] == {"value": "200G", "source": "DEDUPFS_CAPACITY"}
    assert found["options"]["log-level"] == {"value": "debug", "source": "-o log-level"}
    assert found["options"]["store"] == {"value": str(one.store), "source": "--store"}
    assert found["options"]["high-mark"]["source"] == "default"
    one.stop()
    for line in (one.store / "dedupfs.log").read_text().splitlines():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))
