"""`dedupfs fsck`: a progress bar while it runs, a line for each problem, exit codes as of fsck(8)."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli.errors import UsageError
from dedupfs.core.errors import DedupfsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

    from dedupfs.store.fsck.findings import Problem, Progress, Report

from pathlib import Path  # noqa: TC003 - typer reads annotations

CLEAN: Final = 0
CORRECTED: Final = 1
LEFT: Final = 4
FAILED: Final = 8

EPILOG: Final = """
[bold]Exit status[/bold], as of fsck(8)

0 nothing wrong; 1 errors found and corrected; 4 errors found and left; 8 it cannot be done, one \
line on stderr says why; 2 wrong arguments

[bold]Examples[/bold]

[cyan]dedupfs fsck ~/.cache/.hub.dedupfs[/cyan]
look, change nothing

[cyan]dedupfs fsck /data/store --repair[/cyan]
mend; files that lost bytes go to lost+found

[cyan]dedupfs fsck /data/store --rebuild[/cyan]
when the index cannot be read: make it anew from the copy index.backup
"""


def fsck(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="A store, not mounted.", show_default=False)
    ],
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be; list what was done.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Make an index that cannot be read anew, from its last copy. The old one is kept; "
            "content the copy does not know becomes files in lost+found.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, only the problems.")
    ] = False,
) -> None:
    """Check that everything in STORE fits together: names, files, content, counts.

    Content is not read: `dedupfs scrub` does that. Without --repair nothing is changed.

    A file that lost bytes is moved to lost+found with its name, its former path is in its
    attribute user.dedupfs.lost_path; what is left of it can be read. What is whole stays where it is.
    """
    if repair and rebuild:
        raise UsageError("--repair and --rebuild exclude one another")
    from dedupfs.service.report import store_of  # noqa: PLC0415 - slow to import
    from dedupfs.store.fsck import session  # noqa: PLC0415

    mode = (
        session.Mode.REBUILD if rebuild else session.Mode.REPAIR if repair else session.Mode.CHECK
    )
    try:
        with _progress(quiet=quiet or as_json) as progress:
            report = session.run(store_of(store) or store, mode, progress)
    except DedupfsError as error:
        typer.echo(f"dedupfs: {error}", err=True)
        raise typer.Exit(FAILED) from None
    _tell(report, as_json=as_json, quiet=quiet)
    raise typer.Exit(code(report))


def code(report: Report) -> int:
    """Return the exit code."""
    if report.is_clean:
        return CLEAN
    return LEFT if report.left else CORRECTED


def _tell(report: Report, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.document(), indent=2))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(soft_wrap=True)
    for problem in report.problems:
        console.print(_line(problem))
    if quiet:
        return
    for note in report.notes:
        console.print(Text(note, style="dim"))
    done = len(report.problems) - report.left
    verdict = "clean" if report.is_clean else f"{len(report.problems):,} problems, {done:,} mended"
    files, directories = report.summary.get("files", 0), report.summary.get("directories", 0)
    console.print(f"{verdict}: {files:,} files in {directories:,} folders")


def _line(problem: Problem) -> Text:
    from rich.text import Text  # noqa: PLC0415

    line = Text(problem.kind, style="yellow" if problem.repaired else "red")
    if problem.path is not None:
        line.append(f" {_printable(problem.path)}", style="bold")
    line.append(f": {problem.detail}", style="default")
    if problem.repaired:
        line.append(f"; {problem.repaired}", style="green")
    return line


def _printable(path: bytes) -> str:
    # Names may hold line breaks, and bytes that are no text.
    text = path.decode(errors="backslashreplace")
    return text if text.isprintable() else ascii(text)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    if quiet or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=max(total, 1)
        )
