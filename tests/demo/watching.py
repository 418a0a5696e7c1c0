"""Looks at the ranks' folders and at the store's segments from outside, and shows what it sees."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import Console

MIB: Final = 1 << 20
BLOCK_BYTES: Final = 512
_STEP_S: Final = 0.05
_LINE_EVERY_S: Final = 1.0


def disk_bytes(folder: Path) -> int:
    """Return the bytes that all files below take on disk, as `du` counts them."""
    total = 0
    for path, _folders, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(path, name)).st_blocks * BLOCK_BYTES
            except FileNotFoundError:  # removed while we look
                continue
    return total


def file_bytes(folder: Path) -> int:
    """Return the sizes of the files in a folder, a file that is being renamed counted once."""
    sizes = {}
    for name in os.listdir(folder):
        try:
            info = os.stat(folder / name)
        except FileNotFoundError:
            continue
        sizes[info.st_ino] = info.st_size
    return sum(sizes.values())


@dataclass(frozen=True)
class Sample:
    """What was there at one moment: bytes on disk, then bytes in each rank's files."""

    at_s: float
    disk: int
    ranks: tuple[int, ...]

    @property
    def logical(self) -> int:
        """Bytes in the files of all ranks."""
        return sum(self.ranks)

    @property
    def furthest(self) -> int:
        """Bytes in the files of the rank that is ahead."""
        return max(self.ranks)

    @property
    def ratio(self) -> float:
        """Logical bytes to bytes on disk."""
        return self.logical / self.disk if self.disk else 0.0


@dataclass
class Watch:
    """Samples while the ranks write; `samples` has all of them."""

    segments: Path
    folders: Sequence[Path]
    rank_bytes: int
    console: Console
    began_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    def sample(self) -> Sample:
        """Look once. The disk comes first: what it holds is in some rank's file by then."""
        disk = disk_bytes(self.segments)
        ranks = tuple(map(file_bytes, self.folders))
        if self.samples:  # a file between its two names may be missed
            ranks = tuple(map(max, ranks, self.samples[-1].ranks))
        self.samples.append(Sample(time.monotonic() - self.began_s, disk, ranks))
        return self.samples[-1]

    def until(self, done: Callable[[], bool]) -> None:
        """Sample and show until `done`; live on a terminal, a line a second elsewhere."""
        if self.console.is_terminal:
            with Live(console=self.console, refresh_per_second=8) as live:
                self._loop(done, lambda sample: live.update(self.picture(sample)))
        else:
            self._loop(done, self._line())

    def _loop(self, done: Callable[[], bool], show: Callable[[Sample], None]) -> None:
        while not done():
            show(self.sample())
            time.sleep(_STEP_S)
        show(self.sample())

    def _line(self) -> Callable[[Sample], None]:
        next_s = 0.0

        def show(sample: Sample) -> None:
            nonlocal next_s
            if sample.at_s >= next_s:
                next_s = sample.at_s + _LINE_EVERY_S
                self.console.print(self.text(sample), highlight=False, soft_wrap=True)

        return show

    def text(self, sample: Sample) -> str:
        """Return a sample as a line."""
        ranks = " ".join(f"{size / MIB:,.0f}" for size in sample.ranks)
        return (
            f"{sample.at_s:5.1f} s  files {sample.logical / MIB:8,.1f} MiB  on disk "
            f"{sample.disk / MIB:8,.1f} MiB  ratio {sample.ratio:5.3f}  ranks (MiB) {ranks}"
        )

    def picture(self, sample: Sample) -> Table:
        """Return a sample as bars of one scale, the size of one rank's files being a quarter."""
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=10)
        table.add_column(width=50)
        table.add_column(justify="right", min_width=14)
        whole = self.rank_bytes * len(self.folders)
        rows = [(f"rank {number}", size) for number, size in enumerate(sample.ranks)]
        rows += [("all files", sample.logical), ("[bold]on disk[/]", sample.disk)]
        for name, size in rows:
            bar = ProgressBar(total=whole, completed=size, width=50)
            table.add_row(name, bar, f"{size / MIB:,.1f} MiB")
        table.add_row(
            "", f"ratio {sample.ratio:.3f} of {len(self.folders)}", f"{sample.at_s:.1f} s"
        )
        return table
