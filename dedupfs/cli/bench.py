"""`dedupfs bench`: which directories and jobs, a progress bar, tables, where JSON and chart go."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli import errors
from dedupfs.core.quantities import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from dedupfs.bench.figures import Line
    from dedupfs.bench.job import Job, Settings
    from dedupfs.bench.report import Report
    from dedupfs.bench.runner import Step
    from dedupfs.bench.targets import Place

EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs bench ~/cache /tmp/plain[/cyan]
a mount beside a plain directory, in 2 to 3 minutes

[cyan]dedupfs bench dedupfs=/mnt/cache zfs=/mnt/zfs ext4=/data/plain --chart bench.svg[/cyan]
with names of your own, and a chart

[cyan]dedupfs bench ~/cache /tmp/plain --jobs ranks,read --size 1G --json -[/cyan]
some of the jobs, larger, for a program to read

[bold]What is compared[/bold]

Ratios are to the first directory that is no FUSE mount, else to the first; --baseline names another. \
All jobs run in a new folder .dedupfs-bench-* in each directory, which is removed at the end. \
Figures from a cold cache need root, and so does the page cache's growth: without it they are left out.
"""

_FULL_ENTRIES: Final = 1_000_000
_ENTRIES: Final = 10_000
_SIZE: Final = "256M"
_FULL_SIZE: Final = "1G"
_SIZE_MIN_BYTES: Final = 1 << 20
_RANKS_MAX: Final = 64
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NARROW: Final = 130
_WIDTH: Final = 150  # of tables that go to a file


@dataclass(frozen=True)
class _Output:
    """Where figures go."""

    json: Path | None
    chart: Path | None
    quiet: bool
    keep: bool

    @property
    def only_json(self) -> bool:
        return self.json == Path("-")


def bench(  # noqa: PLR0913 - one parameter an option
    directories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]DIR...",
            help="A dedupfs mount, a plain directory, any other mount. They need not be empty.",
            show_default=False,
        ),
    ] = None,
    *,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="What ratios are to.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often each job runs on each directory.")] = 3,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Size of large files. \\[default: 256M]", show_default=False
        ),
    ] = None,
    entries: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Files in the largest folder of cache hits. \\[default: 10000]",
            show_default=False,
        ),
    ] = None,
    ranks: Annotated[int, typer.Option(help="Processes that write at once.")] = 4,
    full: Annotated[
        bool,
        typer.Option("--full", help="1 GiB, and hits among 1,000,000 files: takes half an hour."),
    ] = False,
    jobs: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Only these; see --list.", show_default=False),
    ] = None,
    list_jobs: Annotated[bool, typer.Option("--list", help="List the jobs and end.")] = False,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write all figures; - is standard output, and nothing else.",
        ),
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw a chart, .svg or .png; needs 'dedupfs\\[report]'."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folders behind.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, only the tables at the end.")
    ] = False,
) -> None:
    """Measure the same jobs on directories in turns, and print medians and their ratios.

    Ranks that write the same data, reads, maps, Arrow files, tensors, small files, cache hits.
    """
    from dedupfs.bench.jobs import all_jobs  # noqa: PLC0415 - imports numpy

    chosen_entries = entries if entries is not None else (_FULL_ENTRIES if full else _ENTRIES)
    settings = _settings(size or (_FULL_SIZE if full else _SIZE), chosen_entries, ranks)
    chosen = _chosen(all_jobs(settings), jobs)
    if list_jobs:
        width = max(len(job.name) for job in chosen)
        for job in chosen:
            typer.echo(f"{job.name:{width}}  {job.about}")
        return
    if rounds < 1:
        raise errors.UsageError(f"--rounds {rounds}: want at least 1")
    places, base = _places(directories or [], baseline)
    output = _Output(json_file, chart, quiet, keep)
    _run(chosen, places, _Plan(settings, rounds, base), output)


@dataclass(frozen=True)
class _Plan:
    settings: Settings
    rounds: int
    baseline: Place


def _settings(size: str, entries: int, ranks: int) -> Settings:
    from dedupfs.bench.job import Settings  # noqa: PLC0415
    from dedupfs.bench.system import can_drop_caches  # noqa: PLC0415

    try:
        size_bytes = parse_size(size)
    except ValueError:
        size_bytes = 0
    if size_bytes < _SIZE_MIN_BYTES:
        raise errors.UsageError(f"--size {size}: want at least 1M")
    if entries < 1:
        raise errors.UsageError(f"--entries {entries}: want at least 1")
    if not 1 <= ranks <= _RANKS_MAX:
        raise errors.UsageError(f"--ranks {ranks}: want 1 to {_RANKS_MAX}")
    return Settings(size_bytes, ranks, entries, can_drop_caches())


def _chosen(jobs: list[Job], names: str | None) -> list[Job]:
    """Return the jobs that are named, each by its name or by that of its family."""
    if names is None:
        return jobs
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if not any(_is_called(job, name) for job in jobs):
            raise errors.UsageError(
                f"--jobs: there is no {name!r}, but {', '.join(job.name for job in jobs)}"
            )
    return [job for job in jobs if any(_is_called(job, name) for name in wanted)]


def _is_called(job: Job, name: str) -> bool:
    return job.name == name or (bool(name) and job.name.startswith(f"{name}-"))


def _places(arguments: Sequence[str], baseline: str | None) -> tuple[list[Place], Place]:
    """Return what to measure, and which of it ratios are to."""
    from dedupfs.bench.targets import check  # noqa: PLC0415

    places = [_place(argument) for argument in arguments]
    names = [place.name for place in places]
    # Two directories of the same name are called by their paths.
    places = [
        place if names.count(place.name) == 1 else dataclasses.replace(place, name=str(place.path))
        for place in places
    ]
    base = None
    if baseline is not None:
        wanted = _place(baseline)
        base = next((p for p in places if baseline == p.name or wanted.path == p.path), None)
        if base is None:
            base = wanted
            places.insert(0, base)
    if not places:
        raise errors.UsageError("no directory given, such as ~/cache /tmp/plain")
    check(places)
    return places, base or next((p for p in places if p.is_plain), places[0])


def _place(argument: str) -> Place:
    """Return the place of `DIR` or `NAME=DIR`; what is there is always taken as DIR."""
    from dedupfs.bench.targets import Place  # noqa: PLC0415

    name, separator, rest = argument.partition("=")
    if separator and name and "/" not in name and not Path(argument).exists():
        return Place(name, Path(rest).expanduser())
    path = Path(argument).expanduser()
    return Place(path.resolve().name or "/", path)


def _run(jobs: Sequence[Job], places: list[Place], plan: _Plan, output: _Output) -> None:
    from dedupfs.bench.report import Report  # noqa: PLC0415
    from dedupfs.bench.runner import Observer, compare  # noqa: PLC0415
    from dedupfs.bench.targets import workspaces  # noqa: PLC0415
    from dedupfs.cli.bench_table import line_text  # noqa: PLC0415

    _check_files(output, places)
    with _signals(), workspaces(places, keep=output.keep) as targets, _undisturbed_end():
        about = [target.describe() for target in targets]
        report = Report(plan.settings, plan.rounds, about, plan.baseline.name)
        with _progress(quiet=output.quiet) as (step, say):

            def show(lines: Sequence[Line]) -> None:
                for line in lines:
                    say(line_text(report, line))

            def skip(job: str, why: str) -> None:
                report.skipped[job] = why

            report.lines = compare(jobs, targets, plan.rounds, Observer(step, show, skip))
        if output.keep:
            report.kept = [str(target.work) for target in targets]
    _tell(report, output)


def _check_files(output: _Output, places: Sequence[Place]) -> None:
    """Refuse before the work what would fail after it."""
    from dedupfs.bench import chart  # noqa: PLC0415

    if output.chart is not None:
        chart.check(output.chart)
        if len(places) == 1:
            raise errors.UsageError("--chart compares: give a second directory")
    for path in (output.chart, output.json):
        if path is not None and not path.absolute().parent.is_dir():
            raise errors.UsageError(f"{path}: there is no folder {path.parent}")


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the bench as Ctrl-C does: through its clean-up."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS[1:]:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed_end() -> Iterator[None]:
    """Let no second Ctrl-C break off the removal that the first one began."""
    try:
        yield
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[tuple[Callable[[Step], None], Callable[[str], None]]]:
    """Yield what shows a step, and what says a line; both on stderr, for the figures come last."""
    if quiet:
        yield lambda _step: None, lambda _text: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if not console.is_terminal:
        yield lambda _step: None, lambda text: console.print(text, markup=False)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(step: Step) -> None:
            text = f"{step.job} on {step.target}: {step.doing}"
            bar.update(task, total=step.total, completed=step.done, description=text)

        yield show, lambda text: console.print(text, markup=False)


def _tell(report: Report, output: _Output) -> None:
    from dedupfs.bench import chart  # noqa: PLC0415
    from dedupfs.bench import report as documents  # noqa: PLC0415

    document = report.document()
    if output.only_json:
        typer.echo(documents.text(document), nl=False)
    else:
        _print(report)
    for path in report.kept:
        typer.echo(f"kept: {path}", err=True)
    try:
        if output.json is not None and not output.only_json:
            documents.write(output.json, document)
        if output.chart is not None:
            chart.draw(report, output.chart)
    except OSError as error:
        raise errors.UsageError(f"{error.filename}: {error.strerror}") from None


def _print(report: Report) -> None:
    from rich.console import Console  # noqa: PLC0415

    from dedupfs.cli.bench_table import tables  # noqa: PLC0415

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    for target in report.targets:
        mode = f", {target['io_mode']}" if "io_mode" in target else ""
        console.print(
            f"{target['name']}: {target['path']}, {target['file_system']}{mode}", markup=False
        )
    for table in tables(report, narrow=console.width < _NARROW):
        console.print(table)
    for job, why in report.skipped.items():
        console.print(f"left out: {job}: {why}", markup=False)
    if not report.settings.cold:
        console.print("left out: figures from cold caches and of the page cache, which need root")
