"""If these fail, people cannot see or steer what a full cache removes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mount.conftest import mounted
from mount.mounted import dedupfs, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mount.mounted import Mounted

MIB = 1 << 20


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(tmp_path_factory.mktemp("steered"), "auto", "--capacity=64M") as one:
        yield one


def put(path: Path, seed: int, size: int = 2 * MIB) -> None:
    path.write_bytes(random.Random(seed).randbytes(size))


def asked(*arguments: str | Path) -> dict[str, object]:
    done = dedupfs(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def test_a_plan_says_what_would_go_and_changes_nothing_then_it_goes(steered: Mounted) -> None:
    top = steered.path
    for number in range(3):
        put(top / f"f{number}", number)
    (top / "copy").write_bytes((top / "f1").read_bytes())
    os.sync()
    plan = asked("evict", top, "--to", "3M", "--dry-run")
    rows = plan["plan"]
    assert isinstance(rows, list)
    assert [(row["path"], row["with"], row["frees_bytes"]) for row in rows] == [
        ("f0", [], 2 * MIB),
        ("f2", [], 2 * MIB),
    ]
    assert sorted(os.listdir(top)) == ["copy", "f0", "f1", "f2"]
    shown = dedupfs("evict", top, "--to", "1", "-n").stdout
    assert "with f1" in shown
    done = asked("evict", top, "--to", "3M")
    assert done["done"] is True
    assert done["freed_bytes"] == 4 * MIB
    assert sorted(os.listdir(top)) == ["copy", "f1"]
    gone = dedupfs("why", top / "f0")
    assert "was evicted with unit f0" in one_line(gone.stdout)
    assert "least recently used; asked for; freed 2.0 MiB" in gone.stdout
    assert dedupfs("why", top / "never").returncode == 1


def test_why_names_who_has_it_open_and_pins_hold(steered: Mounted) -> None:
    top = steered.path
    (top / "dir").mkdir()
    put(top / "dir" / "file", 10)
    script = "import sys; f = open(sys.argv[1]); print(flush=True); input()"
    reader = subprocess.Popen(
        [sys.executable, "-c", script, top / "dir" / "file"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert reader.stdout is not None
    reader.stdout.readline()
    kept = dedupfs("why", top / "dir" / "file").stdout
    reader.communicate(b"\n")
    assert "a file in it is open" in kept
    assert f"{reader.pid} (" in kept
    assert dedupfs("pin", top / "dir" / "file").stdout.strip() == "pinned: dir"
    assert "protected: pinned" in dedupfs("why", top / "dir").stdout
    assert {"path": "dir", "why": "pinned"} in asked("evict", top, "-n")["protected"]  # type: ignore[operator]
    asked("evict", top, "--to", "0")
    assert os.listdir(top) == ["dir"]
    assert dedupfs("unpin", top / "dir").returncode == 0
    assert "lives" in dedupfs("why", top / "dir").stdout  # this process made it
    assert "above all units" in one_line(dedupfs("pin", top).stderr)


def test_gc_removes_folders_of_processes_that_ended(steered: Mounted) -> None:
    top = steered.path
    script = "mkdir $0/dead $0/adopted && head -c 100000 /dev/urandom > $0/dead/x"
    subprocess.run(["sh", "-c", script, top], check=True)
    put(top / "adopted" / "x", 20)  # by this process, which lives
    (top / "mine").mkdir()
    assert [row["path"] for row in asked("gc", top, "--dry-run")["plan"]] == ["dead"]  # type: ignore[attr-defined]
    asked("gc", top)
    assert "dead" not in os.listdir(top)
    assert {"adopted", "mine"} <= set(os.listdir(top))


def test_limits_change_while_the_mount_is_in_use(steered: Mounted) -> None:
    top = steered.path
    for number in range(8):
        put(top / f"g{number}", 30 + number)
    assert dedupfs("set", top, "capacity=10M", "policy=s3fifo").stdout.splitlines()[:2] == [
        "capacity = 10M",
        "policy = s3fifo",
    ]
    put(top / "last", 50)
    limits = steered.status()["limits"]
    assert isinstance(limits, dict)
    assert limits["capacity_bytes"] == 10 * MIB
    assert limits["policy"] == "s3fifo"
    assert steered.status_number("allocated_bytes") <= 10 * MIB
    assert (top / "last").exists()
    for wrong, said in (
        ("capacity=x", "capacity: want a size"),
        ("frob=1", "frob: want one of capacity"),
        ("capacity", "want OPTION=VALUE"),
    ):
        failed = dedupfs("set", top, wrong)
        assert failed.returncode != 0
        assert said in one_line(failed.stderr)
    failed = dedupfs("set", top, "min-free=9000T")
    assert failed.returncode == 1
    assert "the disk of the store has" in one_line(failed.stderr)
    assert steered.status()["limits"] == limits
    full = dedupfs("set", top, "capacity=1M").stdout.splitlines()
    assert "what may be evicted goes now" in full[1]
    assert "not a dedupfs mount" in one_line(dedupfs("evict", "/").stderr)
