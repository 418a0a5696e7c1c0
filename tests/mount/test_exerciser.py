"""Random work on a mount leaves the bytes that were written, and no others.

Every failure prints its seed; `SEEDS=7,8 make test ARGS="-k exerciser"` runs those.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from mount.conformance import snapshot
from mount.exerciser import Exerciser, drop_caches
from mount.mounted import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = [
    pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True),
    pytest.mark.timeout(300),
]
SEEDS: Final = [int(seed) for seed in os.environ.get("SEEDS", "1,2,3,4").split(",")]
TURNS: Final = int(os.environ.get("TURNS", "400"))
PROCESSES: Final = 4


def exercise(mount: Mounted, folder: Path, seed: int) -> None:
    """Two spells of work, with the kernel's caches dropped between, and a remount."""
    folder.mkdir()
    with contextlib.closing(Exerciser(folder, seed)) as one:
        one.run(TURNS)
        drop_caches()
        one.run(TURNS)
        one.close()
        mount.remount()
        one.open()
        one.check()
        one.run(TURNS // 2)
    assert mount.alive(), f"the daemon died: {mount.log()}"


@pytest.mark.parametrize("seed", SEEDS)
def test_files_hold_what_was_written(mount: Mounted, seed: int) -> None:
    print(f"seed {seed}")
    exercise(mount, mount.path / f"seed{seed}", seed)


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_the_exerciser_itself_agrees_with_a_plain_directory(
    plain: Path, mount: Mounted, seed: int
) -> None:
    """Else its findings were its own mistakes."""
    if mount.io == "passthrough":
        pytest.skip("once is enough")
    folder = plain / "exerciser"
    folder.mkdir()
    with contextlib.closing(Exerciser(folder, seed)) as one:
        one.run(TURNS)


def workers(folder: Path, seed: int, turns: int) -> list[list[str]]:
    """Let processes work side by side, each in its own folder; return what each was answered."""
    running = []
    for number in range(PROCESSES):
        (folder / f"p{number}").mkdir()
        words = [
            sys.executable,
            "-P",
            "-m",
            "mount.stress",
            str(folder / f"p{number}"),
            str(seed + number),
            str(turns),
        ]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")}
        running.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
    answers = [process.communicate()[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, "a worker failed"
    return answers


def look(folder: Path) -> dict[str, snapshot.Fields]:
    """Return all that must be alike: kinds, modes, sizes, links, data, attributes, set times."""
    found = snapshot.contents(str(folder))
    for path, status in snapshot.tree(str(folder)).items():
        is_dir = found[path].keys() <= {"xattr"} and os.path.isdir(folder / path)
        found[path] |= {
            "mode": f"{status.st_mode:o}", "nlink": status.st_nlink, "size": 0 if is_dir else status.st_size,
            "set mtime": status.st_mtime_ns if status.st_mtime_ns < 1_650_000_000 * 10**9 else 0,
        }  # fmt: skip
    return found


@pytest.mark.parametrize("seed", [seed * 100 for seed in SEEDS[:2]])
def test_processes_side_by_side_do_what_they_do_on_a_plain_directory(
    mount: Mounted, plain: Path, seed: int
) -> None:
    print(f"seed {seed}")
    here, there = plain / f"{mount.io}{seed}", mount.path / f"stress{seed}"
    here.mkdir()
    there.mkdir()
    turns = 5 * TURNS
    for one, other in zip(workers(there, seed, turns), workers(here, seed, turns), strict=True):
        differ = [(mine, plains) for mine, plains in zip(one, other, strict=True) if mine != plains]
        assert not differ, f"seed {seed}: the mount, the plain directory answered {differ[:3]}"
    want = look(here)
    assert look(there) == want, f"seed {seed}, before the remount"
    mount.remount()
    assert look(there) == want, f"seed {seed}, after the remount"
    shutil.rmtree(here)
