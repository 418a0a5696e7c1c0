"""kill -9 of the daemon: what was acknowledged to a program must be there after the next mount."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash import scale
from crash.actors import BEGUN, DONE, FAILED
from crash.acts import Script
from crash.compare import Found, difference, found_on_disk
from crash.conftest import need
from crash.history import check_whole
from dedupfs.store.store import Store
from mount.mounted import Mounted, dedupfs, wait_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ACTORS = 4
OFFLINE_CHECK_EVERY = 5
MODES = ("writeback", "passthrough")
CHECKPOINTS = ["--checkpoint-interval", "0.3"]


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounted]:
    """A mount whose daemon folds its journal often."""
    need(device="/dev/fuse")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("often")))
    one = Mounted(tmp_path / "mnt", tmp_path / "store", "writeback", CHECKPOINTS)
    try:
        yield one
    finally:
        one.clear()


class Killing:
    """Rounds of work and kill over one store."""

    def __init__(self, mount: Mounted, logs: Path) -> None:
        self.mount = mount
        self.acknowledged = 0
        self.problems: list[str] = []
        self._logs = logs
        self._random = random.Random(scale.SEED)
        # What was there after the last kill: nothing touches it, it must stay as it is.
        self._quiet: dict[str, dict[str, Found]] = {}

    def round(self, number: int) -> None:
        """Work, kill, mount, compare; the mount stays for the next round."""
        if not self.mount.pid:
            self.mount.start()
        elif self._random.random() < 0.2:
            self._remount()
            self._compare_quiet(number)
        for seed in list(self._quiet):
            if self._quiet[seed] and self._random.random() < 0.7:
                shutil.rmtree(self.mount.path / seed)
                del self._quiet[seed]
        seed = f"{scale.SEED}-{number}"
        logs = self._logs / str(number)
        logs.mkdir(parents=True)
        killed_ns = self._work_and_kill(seed, logs)
        self.mount.clear()
        if number % OFFLINE_CHECK_EVERY == 0:
            self._check_offline()
        self.mount.io = MODES[number % len(MODES)]
        self.mount.start()
        for actor in range(ACTORS):
            self._compare(f"{seed}-{actor}", (logs / str(actor)).read_bytes(), killed_ns)
        self._compare_quiet(number)

    def _remount(self) -> None:
        """End in order for once. Whoever looks over all mounts may keep it busy for a moment."""
        for _ in range(20):
            done = dedupfs("umount", self.mount.path)
            if done.returncode == 0:
                break
            assert "is busy" in done.stderr, f"{done.stderr}{self.mount.log()}"
            time.sleep(0.25)
        self.mount.start()

    def _work_and_kill(self, seed: str, logs: Path) -> int:
        program = Path(__file__).with_name("actors.py")
        actors = subprocess.Popen(
            [sys.executable, program, self.mount.path, logs, seed, str(ACTORS)]
        )
        try:
            deadline = time.monotonic() + 20
            while not any(path.stat().st_size > 40 for path in logs.iterdir()):
                assert time.monotonic() < deadline, "the actors do not begin"
                time.sleep(0.01)
            time.sleep(self._random.choice((0.1, 0.3, 0.3, 1.2)) * self._random.random())
            killed_ns = time.monotonic_ns()
            os.kill(self.mount.pid, signal.SIGKILL)
            assert wait_gone(self.mount.pid)
            # An actor that waits for the dead daemon's answer is released with its connection.
            actors.wait(timeout=30)
        finally:
            actors.kill()
            actors.wait()
        return killed_ns

    def _check_offline(self) -> None:
        store = Store.open(self.mount.store)
        check_whole(store)
        store.close()

    def _compare(self, seed: str, log: bytes, killed_ns: int) -> None:
        log, _, failure = log.partition(FAILED)
        done = log.count(DONE)
        if failure and int(failure.split()[0]) < killed_ns:
            self.problems.append(f"{seed}: failed before the kill: {failure.decode()}")
        script = Script(seed)
        for _ in range(done):
            script.apply(script.next())
        self.acknowledged += done
        have = found_on_disk(self.mount.path / seed)
        problem = difference(script.names, have)
        if problem and log.count(BEGUN) > done:
            act = script.next()
            script.apply(act)
            late = difference(script.names, have)
            problem = late and f"{problem}; or, with {act.kind} {act.path}: {late}"
        if problem:
            self.problems.append(f"{seed} after {done} acts: {problem}")
        self._quiet[seed] = have

    def _compare_quiet(self, number: int) -> None:
        for seed, want in self._quiet.items():
            have = found_on_disk(self.mount.path / seed)
            if have != want:
                changed = [path for path in want | have if want.get(path) != have.get(path)]
                self.problems.append(f"{seed}, untouched in round {number}: {changed[:4]} changed")


def test_what_was_acknowledged_survives_kill_9(
    mount: Mounted, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    killing = Killing(mount, tmp_path / "logs")
    for number in range(scale.KILLS):
        killing.round(number)
        assert not killing.problems, (scale.SEED, number, killing.problems, mount.log())
    figures(f"kill -9: {scale.KILLS} kills, {killing.acknowledged} acknowledged acts, lost 0")
