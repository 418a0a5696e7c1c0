"""The parts of `make bench`, in order. A new part is a function and a line in `SECTIONS`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench import eviction, report
from bench.savings import CASES, Size, measure
from dedupfs.bench import chart
from dedupfs.bench.jobs import all_jobs
from dedupfs.bench.report import Report
from dedupfs.bench.runner import Observer, compare
from dedupfs.bench.targets import Place, check, workspaces
from dedupfs.cli.bench_table import line_text, tables
from mount.mounted import Mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rich.console import Console

    from dedupfs.bench.figures import Line
    from dedupfs.bench.job import Settings

PLAIN: Final = "plain"


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    settings: Settings
    rounds: int
    modes: list[str]
    peers: list[Place]
    jobs: list[str]
    sections: list[str]
    json: Path | None
    chart: Path | None


@dataclass
class Bench:
    """What a section is given: a new folder to work in, and a document to add its figures to."""

    options: Options
    console: Console
    work: Path
    document: dict[str, object] = field(default_factory=dict)


@contextlib.contextmanager
def mounted(folder: Path, mode: str) -> Iterator[Mounted]:
    """Yield a new mount with its store beside it."""
    one = Mounted(folder / mode, folder / f"{mode}.store", mode)
    try:
        one.start()
        yield one
        one.stop()
    finally:
        one.clear()


def savings(bench: Bench) -> None:
    """Print logical to allocated bytes of inputs that share bytes in different ways."""
    options, console = bench.options, bench.console
    size = Size(options.settings.size_bytes, max(options.settings.entries // 2, 1))
    mode, found = options.modes[0], []
    with mounted(bench.work, mode) as mount:
        for case in CASES:
            saving = measure(case, mount.path, size, mount.status)
            found.append(saving)
            console.print(f"{case.name}: {saving.ratio:.3f}", highlight=False)
    title = f"\nsavings, logical / allocated bytes; {options.settings.size} a rank, {mode}"
    console.print(report.savings_table(found, title))
    bench.document["savings"] = report.savings_document(found)


def speed(bench: Bench) -> None:
    """Print what `dedupfs bench` does for new mounts, a plain directory and peers."""
    options, console = bench.options, bench.console
    if not options.settings.cold:
        console.print("no permission to drop the kernel's caches: no cold figures")
    with contextlib.ExitStack() as stack:
        plain = Place(PLAIN, bench.work / PLAIN)
        plain.path.mkdir()
        mounts = [
            Place(mode, stack.enter_context(mounted(bench.work, mode)).path)
            for mode in options.modes
        ]
        check([plain, *mounts, *options.peers])
        others = stack.enter_context(workspaces([plain, *options.peers]))
        # Kept: the stores go whole, sooner than a million files do.
        ours = stack.enter_context(workspaces(mounts, keep=True))
        targets = [others[0], *ours, *others[1:]]
        about = [target.describe() for target in targets]
        found = Report(options.settings, options.rounds, about, PLAIN)

        def show(lines: Sequence[Line]) -> None:
            for line in lines:
                console.print(line_text(found, line), highlight=False, markup=False)

        jobs = [j for j in all_jobs(options.settings) if not options.jobs or j.name in options.jobs]
        observer = Observer(lines=show, skipped=found.skipped.__setitem__)
        found.lines = compare(jobs, targets, options.rounds, observer)
    for table in tables(found):
        console.print(table)
    for job, why in found.skipped.items():
        console.print(f"left out: {job}: {why}")
    console.print("\nfor the README:\n")
    print(report.markdown(found))
    bench.document |= found.document()
    if options.chart:
        options.chart.parent.mkdir(parents=True, exist_ok=True)
        chart.draw(found, options.chart)


def evictions(bench: Bench) -> None:
    """Print what replacement policies save, and what eviction costs."""
    console, work = bench.console, bench.work
    bench.document["eviction"] = {
        "policies_bytes": eviction.policies(console),
        "victim_us": eviction.victims(console, work, (100, 1_000_000)),
        "hit_us": eviction.hits(console, work),
        "write_ns": eviction.writes(console, work),
        **eviction.misses(console, work),
    }


@dataclass(frozen=True)
class Section:
    """A part of the bench; `--sections` chooses by name."""

    name: str
    run: Callable[[Bench], None]


SECTIONS: Final = [
    Section("savings", savings),
    Section("speed", speed),
    Section("eviction", evictions),
]
