"""fio writes blocks that carry their own checksum and place, and finds each again.

What is lost if one fails: bytes, in the pattern of writing that the test is named after.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from mount.programs import drop_caches, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = [
    pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True),
    pytest.mark.skipif(not shutil.which("fio"), reason="fio is not installed"),
]

# Writes, and reads back in the same run. Sizes are per job.
PATTERNS = {
    "sequential": "--rw=write --bs=128k --size=48m --end_fsync=1",
    "sequential, 1 MiB": "--rw=write --bs=1m --size=64m",
    "sequential, unaligned": "--rw=write --bs=5003 --size=8m",
    "random": "--rw=randwrite --bs=4k --size=12m",
    "random, unaligned": "--rw=randwrite --bsrange=600-70000 --bs_unaligned=1 --size=16m",
    "reads and writes": "--rw=randrw --bs=8k --size=12m --verify_backlog=64",
    "with fsync": "--rw=write --bs=16k --size=4m --fsync=16",
    "libaio, direct": "--ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bs=4k --size=8m",
    "libaio, direct, large": "--ioengine=libaio --direct=1 --iodepth=4 --rw=write --bs=1m --size=32m",
    "many files": "--rw=write --nrfiles=300 --openfiles=30 --filesize=1k-64k --bsrange=1k-16k",
    "four jobs": "--rw=randwrite --bs=16k --size=6m --numjobs=4",
    "four jobs, equal bytes": (
        "--rw=write --bs=64k --size=16m --numjobs=4 --verify=pattern --verify_pattern=%o"
    ),
    "half duplicates": "--rw=write --bs=32k --size=24m --dedupe_percentage=50 --verify=0",
}


@pytest.fixture
def folder(mount: Mounted) -> Iterator[Path]:
    """A folder on the mount for one test; the daemon must be alive when it is left."""
    path = mount.path / "fio"
    path.mkdir()
    yield path
    assert mount.alive(), mount.log()
    shutil.rmtree(path)


def fio(folder: Path, cwd: Path, arguments: str) -> None:
    run(
        "fio", "--name=job", f"--directory={folder}", "--verify=crc32c", "--verify_fatal=1",
        "--verify_state_save=0", "--fallocate=none", "--group_reporting", *arguments.split(), cwd=cwd,
    )  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_what_fio_wrote_it_reads_back(folder: Path, tmp_path: Path, pattern: str) -> None:
    fio(folder, tmp_path, pattern)


@pytest.mark.parametrize("blocks", ["--bs=4k", "--bsrange=1k-64k --bs_unaligned=1"])
def test_what_went_in_through_a_map_is_on_disk(
    mount: Mounted, folder: Path, tmp_path: Path, blocks: str
) -> None:
    """Two phases, the kernel's cache dropped between: the pages come from the store."""
    job = f"--ioengine=mmap --rw=randwrite --size=16m {blocks}"
    fio(folder, tmp_path, f"{job} --do_verify=0")
    drop_caches()
    fio(folder, tmp_path, f"{job} --verify_only=1")
    mount.remount()
    fio(folder, tmp_path, f"{job} --verify_only=1")


def test_what_was_written_is_there_after_a_remount(
    mount: Mounted, folder: Path, tmp_path: Path
) -> None:
    job = "--rw=randwrite --bs=10k --size=4000k --numjobs=3"
    fio(folder, tmp_path, f"{job} --do_verify=0")
    mount.remount()
    fio(folder, tmp_path, f"{job} --verify_only=1")
