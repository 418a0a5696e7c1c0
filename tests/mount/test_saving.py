"""Equal bytes are kept once: the ratios that the README promises, at moderate sizes.

What is lost if one fails: the disk space that a user mounted dedupfs for.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

from bench.savings import CASES, MIB, Case, Size, measure, segments_on_disk, settled
from mount import workers
from mount.programs import run, wait_for
from mount.workers import SPAWN, content, run_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True)

SIZE = Size(rank_bytes=40 * MIB, small_files=800)
FREED_WITHIN_S = 60


@pytest.fixture
def folder(mount: Mounted) -> Iterator[Path]:
    """A folder on the mount for one test; the daemon must be alive when it is left."""
    path = mount.path / "saving-test"
    path.mkdir()
    yield path
    assert mount.alive(), mount.log()
    shutil.rmtree(path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_ratio(mount: Mounted, folder: Path, case: Case) -> None:
    saving = measure(case, folder, SIZE, mount.status)
    assert saving.reached, f"ratio {saving.ratio:.3f}, want {case.at_least:.3f}: {saving}"


def test_status_agrees_with_du(mount: Mounted, folder: Path) -> None:
    for number in range(20):
        (folder / str(number)).write_bytes(content(number, 700_000 + 12_345 * number))
    for number in range(0, 20, 3):
        (folder / str(number)).unlink()
    allocated = settled(mount.status)["allocated_bytes"]
    du = int(run("du", "-s", "--block-size=1", mount.store / "segments").split()[0])
    assert du == pytest.approx(allocated, rel=0.01)
    assert segments_on_disk(mount.store) == pytest.approx(allocated, rel=0.01)


@pytest.mark.parametrize("seed", [1, 2])
def test_four_writers_that_overtake_one_another_end_with_one_extent_each(
    mount: Mounted, folder: Path, seed: int
) -> None:
    ranks, size = 4, 24 * MIB + 1234
    before = settled(mount.status)["allocated_bytes"]
    start = SPAWN.Barrier(ranks)
    paths = [folder / f"rank{rank}.arrow" for rank in range(ranks)]
    run_at_once(
        workers.write_at_random_speed,
        [(str(path), size, 10 * seed + rank, start) for rank, path in enumerate(paths)],
    )
    want = content(7, size)
    for path in paths:
        assert path.read_bytes() == want
    assert [os.getxattr(path, "user.dedupfs.extents") for path in paths] == [b"1"] * ranks
    assert settled(mount.status)["allocated_bytes"] - before <= 1.002 * size


def test_at_no_moment_do_four_ranks_take_more_than_one(mount: Mounted, folder: Path) -> None:
    """The disk is looked at while they write, not only afterwards."""
    ranks, files, size = 4, 3, 16 * MIB
    start, done, samples = SPAWN.Barrier(ranks), threading.Event(), [0]
    folders = [folder / f"rank{rank}" for rank in range(ranks)]
    for path in folders:
        path.mkdir()
    settled(mount.status)
    before = segments_on_disk(mount.store)

    def sample() -> None:
        while not done.is_set():
            samples.append(segments_on_disk(mount.store) - before)
            time.sleep(0.01)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        run_at_once(workers.write_rank, [(str(path), files, size, start) for path in folders])
        os.sync()
    finally:
        done.set()
        sampler.join()
    assert len(samples) > 10
    assert max(samples) <= 1.02 * files * size
    assert max(samples) >= 0.99 * files * size, "the samples missed the writing"


def test_the_space_of_removed_files_comes_back(mount: Mounted, folder: Path) -> None:
    before = settled(mount.status)
    for number in range(4):
        (folder / f"large{number}").write_bytes(content(100 + number, 5 * MIB))
    for number in range(300):
        (folder / f"small{number}").write_bytes(content(200 + number, 5000))
    keep = (folder / "small0").read_bytes()
    grown = settled(mount.status)
    assert grown["allocated_bytes"] - before["allocated_bytes"] >= 21 * MIB
    for path in folder.iterdir():
        if path.name != "small0":
            path.unlink()

    def freed() -> bool:
        left = mount.status_number("allocated_bytes") - before["allocated_bytes"]
        return (
            left <= 64 * 1024 and segments_on_disk(mount.store) <= before["allocated_bytes"] + MIB
        )

    assert wait_for(freed, FREED_WITHIN_S, 0.5), (before, mount.status())
    assert (folder / "small0").read_bytes() == keep


def test_a_file_open_when_it_was_removed_gives_its_space_back_on_close(
    mount: Mounted, folder: Path
) -> None:
    before = settled(mount.status)["allocated_bytes"]
    with (folder / "open").open("xb+") as file:
        file.write(content(300, 8 * MIB))
        file.flush()
        (folder / "open").unlink()
        assert settled(mount.status)["allocated_bytes"] - before >= 7 * MIB
    assert wait_for(
        lambda: mount.status_number("allocated_bytes") - before <= 64 * 1024, FREED_WITHIN_S, 0.5
    )
