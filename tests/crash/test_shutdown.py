"""Power cut on a real file system: it is shut down under a working store, then mounted again."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash import scale
from crash.conftest import need
from crash.disk import Disk
from crash.history import History, Lost, verify
from crash.mutants import MUTANTS, SOUND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MUTANT_ROUNDS_MAX = 30
# ext4 and XFS write their own log in order: what orders names and syncs beyond that, they cannot show.
SEEN_BY_SHUTDOWN = [
    "no-segment-sync", "no-mark-sync", "no-lmdb-sync", "mark-before-segments", "punch-at-once",
    "flipped-bytes",
]  # fmt: skip


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    need("mkfs." + request.param, "mount", device="/dev/loop-control", root=True)
    # Not in a folder of pytest's: it may move and remove those of other runs.
    base = Path(tempfile.mkdtemp(prefix="dedupfs-crash-"))
    one = Disk(request.param, base / "image", base / "disk")
    one.make()
    try:
        yield one
    finally:
        one.clear()
        shutil.rmtree(base)


class Cuts:
    """Rounds of work and power cut, each on a store of its own on one disk."""

    def __init__(self, disk: Disk, logs: Path, mutant: str) -> None:
        self.survived = 0
        self.durable = 0
        self._disk = disk
        self._logs = logs
        self._mutant = mutant
        self._random = random.Random(scale.SEED + mutant)

    def round(self, number: int) -> None:
        """Raises Lost, AssertionError or what opening raises when the store is not what it must be."""
        seed = f"{scale.SEED}-{number}"
        log, store = self._logs / f"log{number}", self._disk.path / f"store{number}"
        self._disk.mount()
        self._work_and_cut(store, log, seed)
        text = log.read_text()
        if self._random.random() < 0.3:
            self._cut_while_opening(store)
        closes = self._random.random() < 0.5
        durable, survived = verify(store, History(seed, text), close=closes)
        # What was there after recovery is there for good, whatever way it was left.
        verify(store, History(seed, text), close=True)
        self.durable, self.survived = self.durable + durable, self.survived + survived
        shutil.rmtree(store)
        self._disk.unmount()

    def _work_and_cut(self, store: Path, log: Path, seed: str) -> None:
        life = self._random.choice(("0.3", "60"))
        child = _start("child.py", store, log, seed, self._mutant, "60", life)
        try:
            deadline = time.monotonic() + 30
            while not log.exists() or log.stat().st_size < 60:
                assert child.poll() is None, child.communicate()[1]
                assert time.monotonic() < deadline, "the child does not begin"
                time.sleep(0.005)
            time.sleep(self._random.choice((0.1, 0.6, 1.5)) * self._random.random())
            assert child.poll() is None, child.communicate()[1]
            self._disk.cut_power()
        finally:
            child.kill()
            child.communicate()
        self._disk.unmount()
        self._disk.mount()

    def _cut_while_opening(self, store: Path) -> None:
        """Cut the power again while the store recovers."""
        code = f"from pathlib import Path; from dedupfs.store.store import Store; Store.open(Path({str(store)!r})); input()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=-3)
        try:
            time.sleep(self._random.uniform(0.1, 0.4))
            self._disk.cut_power()
        finally:
            child.kill()
            child.communicate()
        self._disk.unmount()
        self._disk.mount()


def _start(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    path = Path(__file__).with_name(program)
    return subprocess.Popen(
        [sys.executable, path, *arguments], stdin=-3, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("disk", ["ext4", "xfs"], indirect=True)
def test_what_fsync_acknowledged_survives_a_power_cut(
    disk: Disk, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    cuts = Cuts(disk, tmp_path, SOUND)
    for number in range(scale.SHUTDOWN_ROUNDS):
        try:
            cuts.round(number)
        except Exception as error:
            error.add_note(f"DEDUPFS_CRASH_SEED={scale.SEED}, round {number}")
            raise
    figures(
        f"power cut on {disk.kind}: {scale.SHUTDOWN_ROUNDS} rounds, {cuts.durable} events "
        f"made durable by acknowledged syncs, {cuts.survived} survived, lost 0"
    )


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
@pytest.mark.parametrize("mutant", SEEN_BY_SHUTDOWN)
def test_a_store_with_one_thing_left_out_is_caught(
    disk: Disk, tmp_path: Path, mutant: str, figures: Callable[[str], None]
) -> None:
    cuts = Cuts(disk, tmp_path, mutant)
    for number in range(MUTANT_ROUNDS_MAX):
        try:
            cuts.round(number)
        except Lost as error:
            figures(f"  without {MUTANTS[mutant].what}: caught in round {number}: {error.short}")
            return
    pytest.fail(f"blind: nobody misses {MUTANTS[mutant].what}")
