"""Several processes that write the same bytes at the same time, each into its own folder."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dedupfs.bench.figures import Figure, Kind
from dedupfs.bench.job import Need, fresh
from dedupfs.bench.targets import BenchError
from dedupfs.bench.writing import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dedupfs.bench.job import Settings
    from dedupfs.bench.targets import Target

_FILL_BYTES: Final = 16 * MIB
_SAMPLE_S: Final = 0.05


class _Processes:
    """The ranks of one round; `step` has them do the next thing together."""

    def __init__(self, ranks: list[subprocess.Popen[str]], target: Target) -> None:
        self._ranks = ranks
        self._target = target
        self.peak_bytes = 0

    def step(self) -> list[float]:
        """Start the next step in all ranks, and return the clock at each one's end."""
        for rank in self._ranks:
            assert rank.stdin is not None, "a pipe"
            print(file=rank.stdin, flush=True)
        return self.answers()

    def answers(self) -> list[float]:
        """Return what each rank says, looking at the disk meanwhile."""
        waiting = [rank.stdout for rank in self._ranks if rank.stdout is not None]
        clocks = []
        while waiting:
            ready = select.select(waiting, [], [], _SAMPLE_S)[0]
            self.peak_bytes = max(self.peak_bytes, self._target.disk_bytes())
            for pipe in ready:
                line = pipe.readline()
                if not line:
                    raise BenchError(f"{self._target.path}: a rank could not write: {self._why()}")
                clocks.append(float(line))
                waiting.remove(pipe)
        return clocks

    def _why(self) -> str:
        for rank in self._ranks:
            last = rank.communicate()[1].strip().rpartition("\n")[2]
            if rank.returncode:
                return last
        return "no reason given"


@contextlib.contextmanager
def _processes(
    target: Target, top: Path, settings: Settings, *, own_page: bool
) -> Iterator[_Processes]:
    content = _shared(settings.size_bytes)
    ranks: list[subprocess.Popen[str]] = []
    try:
        for number in range(settings.ranks):
            folder = top / f"rank{number}"
            folder.mkdir()
            arguments = [folder / "data", content, settings.size_bytes, int(own_page)]
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-P", "-m", "dedupfs.bench.rank", *map(str, arguments)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    pass_fds=[content],
                )
            )
        yield _Processes(ranks, target)
    finally:
        os.close(content)
        for rank in ranks:
            rank.kill()
            rank.communicate()


def _shared(size_bytes: int) -> int:
    """Return a descriptor of memory with new random bytes."""
    fd = os.memfd_create("dedupfs-bench")
    os.truncate(fd, size_bytes)
    with mmap.mmap(fd, size_bytes) as memory:
        for start in range(0, size_bytes, _FILL_BYTES):
            stop = min(start + _FILL_BYTES, size_bytes)
            memory[start:stop] = fresh(stop - start)
    return fd


@dataclass(frozen=True)
class Ranks:
    """All ranks write the same file; with `own_page` each has its own first page."""

    settings: Settings
    own_page: bool

    @property
    def name(self) -> str:
        return "ranks-page" if self.own_page else "ranks"

    @property
    def about(self) -> str:
        which = "files that differ in the first page" if self.own_page else "the same file"
        return f"{self.settings.ranks} processes write {which} ({self.settings.size} each) at once"

    def figures(self) -> Sequence[Figure]:
        which = ", first page differing" if self.own_page else ""
        what = f"{self.settings.ranks} ranks write the same {self.settings.size}{which}"
        return [
            Figure("close_s", f"{what}, to close", "s", Kind.SECONDS, headline=not self.own_page),
            Figure("sync_s", f"{what}, to sync", "s", Kind.SECONDS, headline=True),
            Figure("peak", f"{what}, disk peak", "MiB", Kind.SPACE, headline=not self.own_page),
        ]

    def need(self) -> Need:
        return Need(run_bytes=self.settings.size_bytes * self.settings.ranks)

    def skipped(self) -> str | None:
        return None

    def setup(self, target: Target) -> None:
        del target

    def run(self, target: Target) -> Mapping[str, float]:
        top = target.work / "ranks"
        top.mkdir()
        before = target.disk_bytes()
        with _processes(target, top, self.settings, own_page=self.own_page) as ranks:
            ranks.answers()
            started = time.monotonic()
            closed = max(ranks.step())
            synced = max(ranks.step())
            peak = max(ranks.peak_bytes, target.disk_bytes())
        shutil.rmtree(top)
        return {
            "close_s": closed - started,
            "sync_s": synced - started,
            "peak": (peak - before) / MIB,
        }
