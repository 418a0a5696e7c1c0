"""kill -9 of the daemon while it makes room: a unit is there whole or gone whole, and nothing else is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import pytest

from crash import scale
from crash.conftest import need
from crash.history import check_whole
from dedupfs.store.fsck.session import Mode, run
from dedupfs.store.store import Store
from mount.mounted import Mounted, wait_gone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KILLS = 40 if scale.IS_LONG else 3
CAPACITY_MIB = 24
FILES = 12
SHARED = 4  # the first files of a unit are those of the unit before


def content(unit: int, number: int) -> bytes:
    source = unit - 1 if number < SHARED and unit % 3 else unit
    rng = random.Random(f"{source} {number}")
    return rng.randbytes(rng.choice((500, 20_000, 300_000)))


def write_units(root: Path, log: Path, first: int) -> None:
    """Write units until stopped; a line of the log for each file that was closed."""
    with log.open("a") as out:
        unit = first
        while True:
            (root / f"u{unit}").mkdir()
            for number in range(FILES):
                (root / f"u{unit}" / f"f{number}").write_bytes(content(unit, number))
                out.write(f"{unit} {number}\n")
                out.flush()
            unit += 1


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounted]:
    need(device="/dev/fuse")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("often")))
    arguments = [f"--capacity={CAPACITY_MIB}M", "--owners=ignore", "--checkpoint-interval=0.3"]
    one = Mounted(tmp_path / "mnt", tmp_path / "store", "writeback", arguments)
    try:
        yield one
    finally:
        one.clear()


def verify(mount: Mounted, written: dict[int, int]) -> tuple[int, int]:
    """Return how many units are there, and how many were evicted."""
    found = {int(name[1:]): mount.path / name for name in os.listdir(mount.path)}
    for unit, path in found.items():
        names = set(os.listdir(path))
        count = written.get(unit, 0)
        missing = {f"f{number}" for number in range(count)} - names
        assert not missing, f"unit {unit} is there without {missing}: {mount.log()}"
        for number in range(count):
            have, want = (path / f"f{number}").read_bytes(), content(unit, number)
            assert have == want, f"unit {unit}, file {number}: {len(have)} bytes, want {len(want)}"
    return len(found), len(written.keys() - found.keys())


def test_a_kill_while_room_is_made_leaves_units_whole(
    mount: Mounted, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    rng, log = random.Random(scale.SEED), tmp_path / "log"
    log.touch()
    gone = first = 0
    for number in range(KILLS):
        mount.start()
        evictions = mount.status()["evictions"]
        assert isinstance(evictions, dict)
        writer = subprocess.Popen([sys.executable, __file__, mount.path, log, str(first)])
        try:
            if not number:
                time.sleep(2)  # until it is full
            time.sleep(rng.uniform(0.2, 1.2))
            assert writer.poll() is None, "it waits for room, it is never refused"
            os.kill(mount.pid, signal.SIGKILL)
            assert wait_gone(mount.pid)
            writer.wait(timeout=30)
        finally:
            writer.kill()
            writer.wait()
        mount.clear()
        if number % 2:
            report = run(mount.store, Mode.CHECK, lambda *_: None)
            assert report.is_clean, report
        if number % 3 == 0:
            store = Store.open(mount.store)
            check_whole(store)
            store.close()
        written: dict[int, int] = {}
        for line in log.read_text().splitlines():
            unit, _, name = line.partition(" ")
            written[int(unit)] = int(name) + 1
        mount.start()
        there, evicted = verify(mount, written)
        first = max([*written, *(int(name[1:]) for name in os.listdir(mount.path))]) + 1
        assert there, (scale.SEED, number)
        mount.stop()
        gone = evicted
    assert gone, "nothing was evicted"
    figures(f"kill -9 while room is made: {KILLS} kills, {gone} units evicted, the others whole")


if __name__ == "__main__":
    write_units(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
