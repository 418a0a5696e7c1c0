"""Power cut on a disk that keeps no more than POSIX says: states built from a record of all changes."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash import scale
from crash.conftest import need
from crash.history import History, Lost, verify
from crash.mutants import MUTANTS, SOUND
from crash.recording import Recording, record
from crash.states import cuts
from dedupfs.store import instance, rollback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crash.states import Cut

RECORD_S = 1.2
LIVES_S = 60, 0.25  # one process, or some that are killed
STATES_A_RECORDING = 130
MUTANT_STATES_MAX = 300
OTHER_BOOT = instance.Instance(b"another boot id.", 1)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: what is tried is the order of syncs, not the disk."""
    need("strace")
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir():
        yield tmp_path
        return
    # Not named after the test: two runs of it may be under way.
    path = Path(tempfile.mkdtemp(prefix="dedupfs-crash-", dir=memory))
    yield path
    shutil.rmtree(path)


class Tries:
    """One recorded run of a store, and the states that a power cut may leave of it."""

    def __init__(self, tmp_path: Path, scratch: Path, mutant: str, number: int = 0) -> None:
        self.seed = f"{scale.SEED}-{number}"
        self._scratch = scratch
        self.recording = _record(
            tmp_path / f"{mutant}{number}", self.seed, mutant, LIVES_S[(number + 1) % 2]
        )
        self.survived = 0
        self.durable = 0

    def cuts(self) -> Iterator[Cut]:
        return cuts(self.recording, self.seed)

    def attempt(self, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
        """Raises what is wrong with the store in that state."""
        state = self._scratch / "state"
        shutil.rmtree(state, ignore_errors=True)
        cut.build(state)
        log = self.recording.log_at(cut.at)
        with monkeypatch.context() as patch:
            patch.setattr(instance, "current", lambda _folder: OTHER_BOOT)
            history = History(self.seed, log)
            durable, survived = verify(state / "store", history, close=False, is_copy=True)
        self.durable, self.survived = self.durable + durable, self.survived + survived


def _record(base: Path, seed: str, mutant: str, life_s: float) -> Recording:
    root = base / "root"
    root.mkdir(parents=True)
    child = Path(__file__).with_name("child.py")
    log = base / "log"
    command = [sys.executable, child, root / "store", log, seed, mutant]
    return record([*command, str(RECORD_S), str(life_s)], root, log, base / "trace")


def test_every_state_after_a_power_cut_opens_whole(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, figures: Callable[[str], None]
) -> None:
    done = survived = durable = number = 0
    while done < scale.STATES:
        tries = Tries(tmp_path, scratch, SOUND, number)
        limit = min(STATES_A_RECORDING, scale.STATES - done)
        for cut, _ in zip(tries.cuts(), range(limit), strict=False):
            try:
                tries.attempt(cut, monkeypatch)
            except BaseException as error:
                error.add_note(f"DEDUPFS_CRASH_SEED={scale.SEED} {number} {cut.at} {cut.way}")
                raise
            done += 1
        survived, durable = survived + tries.survived, durable + tries.durable
        number += 1
    figures(
        f"power cut, states built from {number} records: {done} states, {durable} events made "
        f"durable by acknowledged syncs, {survived} survived, lost 0"
    )


@pytest.mark.parametrize("mutant", [name for name in MUTANTS if name != SOUND])
def test_a_store_with_one_thing_left_out_is_caught(
    tmp_path: Path,
    scratch: Path,
    mutant: str,
    monkeypatch: pytest.MonkeyPatch,
    figures: Callable[[str], None],
) -> None:
    tries = Tries(tmp_path, scratch, mutant)
    for number, cut in zip(range(MUTANT_STATES_MAX), tries.cuts(), strict=False):
        try:
            tries.attempt(cut, monkeypatch)
        except Lost as error:
            figures(f"  without {MUTANTS[mutant].what}: caught in state {number}: {error.short}")
            return
    pytest.fail(f"blind: nobody misses {MUTANTS[mutant].what}")


def test_a_start_that_keeps_a_torn_commit_is_caught(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, figures: Callable[[str], None]
) -> None:
    monkeypatch.setattr(rollback, "roll_back", lambda _index, _now: False)
    tries = Tries(tmp_path, scratch, SOUND)
    for number, cut in zip(range(MUTANT_STATES_MAX), tries.cuts(), strict=False):
        try:
            tries.attempt(cut, monkeypatch)
        except Lost as error:
            figures(f"  without taking torn commits back: caught in state {number}: {error.short}")
            return
    pytest.fail("blind: nobody misses that torn commits are taken back")
