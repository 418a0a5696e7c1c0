"""Four ranks write the same Arrow data into a dedupfs mount at once; the disk holds one copy.

Run by `make demo`. Makes a mount of its own through the `dedupfs` command, in a temporary folder, and
removes everything at the end. Exit code 1 when anything is not as promised, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import arrow_files
from arrow_files import Plan, Written
from rich.console import Console
from rich.table import Table
from watching import MIB, Watch, disk_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.context import SpawnProcess
    from types import FrameType

DISK_LIMIT: Final = 1.02  # bytes on disk, of one rank's files, at every moment
_SPAWN: Final = multiprocessing.get_context("spawn")
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)
_DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")


class Failed(Exception):
    """The demo cannot go on; its text is for the user."""


@dataclass(frozen=True)
class Result:
    """What the ranks' files came to."""

    watch: Watch
    end_disk: int
    good: int
    files: int
    write_s: float
    read_s: float

    @property
    def peak(self) -> int:
        """The most bytes on disk that any sample has."""
        return max(self.end_disk, *(sample.disk for sample in self.watch.samples))

    @property
    def ahead(self) -> float:
        """The most that the disk had of what the furthest rank had written by then."""
        worth = [one for one in self.watch.samples if one.furthest >= self.watch.rank_bytes // 20]
        return max((one.disk / one.furthest for one in worth), default=0.0)

    @property
    def promises(self) -> dict[str, bool]:
        """What must hold, in words, and whether it does."""
        limit = DISK_LIMIT * self.watch.rank_bytes
        return {
            "every file reads back as it was written": self.good == self.files,
            f"peak on disk at most {DISK_LIMIT:.2f}x one rank's files": self.peak <= limit,
            f"at no moment over {DISK_LIMIT:.2f}x the furthest rank": self.ahead <= DISK_LIMIT,
            f"at the end at most {DISK_LIMIT:.2f}x one rank's files": self.end_disk <= limit,
        }


def stop(_number: int, _frame: FrameType | None) -> None:
    """End as after Ctrl-C; once is enough, the clean-up is not to be stopped as well."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off to the end of the block."""
    heard: list[int] = []
    before = [signal.signal(number, lambda got, _frame: heard.append(got)) for number in _STOPPING]
    try:
        yield
    finally:
        for number, handler in zip(_STOPPING, before, strict=True):
            signal.signal(number, handler)
    if heard:
        stop(heard[0], None)


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started in the block do not hear Ctrl-C: this one ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def command(*arguments: str | Path) -> None:
    """Run `dedupfs` to its end; raise Failed with its own words when it fails."""
    beside = Path(sys.executable).with_name("dedupfs")
    start = [str(beside)] if beside.exists() else [sys.executable, "-m", "dedupfs"]
    done = subprocess.run(
        [*start, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # Ctrl-C is for us
    )
    if done.returncode:
        raise Failed(f"dedupfs {arguments[0]} failed: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(work: Path) -> Iterator[tuple[Path, Path]]:
    """Mount in `work` for the block; gives the mount point and the store."""
    mountpoint, store = work / "mount", work / "store"
    mountpoint.mkdir()
    try:
        with undisturbed():
            command("mount", mountpoint, "--store", store)
        yield mountpoint, store
    finally:
        if os.path.ismount(mountpoint):
            with undisturbed():
                command("umount", mountpoint)


@contextlib.contextmanager
def work_folder(parent: Path | None, *, keep: bool) -> Iterator[Path]:
    """Make a folder for the block; nothing of it stays, not even when the block fails."""
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="dedupfs-demo-", dir=parent))
    try:
        yield work
    finally:
        if not keep and not os.path.ismount(work / "mount"):
            shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def processes(
    work: Callable[..., None], arguments: Sequence[tuple[object, ...]]
) -> Iterator[list[SpawnProcess]]:
    """Run `work` in a process for each tuple; none of them outlives the block."""
    started: list[SpawnProcess] = []
    try:
        with deaf_children():
            for given in arguments:
                started.append(_SPAWN.Process(target=work, args=given))
                started[-1].start()
        yield started
    finally:
        for process in started:
            process.terminate()
            process.join()


def references(plan: Plan, ranks: int) -> list[list[Written]]:
    """Return each rank's files as they must be, computed without the mount."""
    pipes = [_SPAWN.Pipe(duplex=False) for _ in range(plan.files)]
    given = [(plan, ranks, number, pipe[1]) for number, pipe in enumerate(pipes)]
    with processes(arrow_files.send_reference, given):
        for _, sender in pipes:
            sender.close()  # a process that dies is then seen as an end of file
        try:
            by_file = [receiver.recv() for receiver, _ in pipes]
        except EOFError:
            raise Failed("a process that computes the reference died") from None
    return [list(files) for files in zip(*by_file, strict=True)]


def write_all(watch: Watch, plan: Plan) -> float:
    """Let all ranks write at once, watched; returns the seconds that it took."""
    start = _SPAWN.Barrier(len(watch.folders) + 1)
    given = [(folder, plan, rank, start) for rank, folder in enumerate(watch.folders)]
    with processes(arrow_files.write_rank, given) as ranks:
        start.wait(60)
        watch.began_s = time.monotonic()
        watch.until(lambda: not any(rank.is_alive() for rank in ranks))
        codes = [rank.exitcode for rank in ranks]
    if any(codes):
        raise Failed(f"exit codes of the ranks: {codes}")
    return time.monotonic() - watch.began_s


def forget_caches() -> bool:
    """Have everything read from disk from now on; False when that is not permitted."""
    os.sync()
    try:
        _DROP_CACHES.write_text("3")
    except OSError:
        return False
    return True


def read_all(folders: list[Path], wanted: list[list[Written]]) -> int:
    """Return how many files are byte for byte what they must be."""
    return sum(
        arrow_files.read_back(folder / want.name) == want
        for folder, files in zip(folders, wanted, strict=True)
        for want in files
    )


def show(console: Console, result: Result) -> None:
    """Print the table of the end."""
    last, rank_bytes = result.watch.samples[-1], result.watch.rank_bytes
    table = Table(title="\nfour ranks, one copy", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    rows = {
        "one rank's files": f"{rank_bytes / MIB:,.1f} MiB",
        "files of all ranks": f"{last.logical / MIB:,.1f} MiB",
        "on disk at the end": f"{result.end_disk / MIB:,.1f} MiB",
        "ratio": f"{last.logical / result.end_disk:.3f} of {len(last.ranks)}",
        "peak on disk": f"{result.peak / MIB:,.1f} MiB",
        "peak on disk, of one rank's files": f"{result.peak / rank_bytes:.4f}",
        "samples while writing": f"{len(result.watch.samples):,}",
        "digests that are right": f"{result.good} of {result.files}",
        "written in": f"{result.write_s:.1f} s",
        "read back in": f"{result.read_s:.1f} s",
    }
    for what, figure in rows.items():
        table.add_row(what, figure)
    table.add_section()
    for promise, kept in result.promises.items():
        table.add_row(promise, "[green]yes[/]" if kept else "[bold red]NO[/]")
    console.print(table)


def run(console: Console, work: Path, plan: Plan, ranks: int) -> Result:
    """Mount, write, read back, unmount."""
    console.print(f"computing what {ranks} ranks must read back ...")
    wanted = references(plan, ranks)
    rank_bytes = sum(file.size for file in wanted[0])
    with mounted(work) as (mountpoint, store):
        folders = [mountpoint / f"hf_datasets-rank{rank}" for rank in range(ranks)]
        for folder in folders:
            folder.mkdir()
        size_mib = rank_bytes / MIB / plan.files
        console.print(f"{ranks} ranks write {plan.files} Arrow files of {size_mib:,.0f} MiB each")
        watch = Watch(store / "segments", folders, rank_bytes, console)
        write_s = write_all(watch, plan)
        cold = forget_caches()
        end_disk = disk_bytes(store / "segments")
        console.print(f"reading everything back, {'from disk' if cold else 'from memory'} ...")
        began_s = time.monotonic()
        good = read_all(folders, wanted)
        return Result(
            watch, end_disk, good, ranks * plan.files, write_s, time.monotonic() - began_s
        )


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=1024, help="of one rank's files")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--dir", type=Path, help="where to work (default: the temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the store where it is")
    return parser.parse_args()


def main() -> int:
    """Return the exit code."""
    asked = arguments()
    console = Console()
    for number in _STOPPING:
        signal.signal(number, stop)
    plan = Plan.of_size(asked.size_mib * MIB)
    try:
        with work_folder(asked.dir, keep=asked.keep) as work:
            result = run(console, work, plan, asked.ranks)
    except Failed as error:
        console.print(f"[bold red]demo: {error}[/]")
        return 1
    except KeyboardInterrupt:
        console.print("demo: stopped")
        return 130
    show(console, result)
    if asked.keep:
        console.print(f"the store is in {work / 'store'}")
    return 0 if all(result.promises.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
