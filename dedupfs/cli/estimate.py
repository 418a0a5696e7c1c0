"""`dedupfs estimate`: a progress bar while it reads, a table of what a mount would save."""

from __future__ import annotations

import json
import os
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli.errors import INTERRUPTED, REFUSED, UsageError
from dedupfs.core import quantities
from dedupfs.core.quantities import size

if TYPE_CHECKING:
    from rich.console import Console

    from dedupfs.transfer.estimating import Estimate

_ROWS: Final = 15

EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs estimate ~/.cache/modelscope/hub/tmp[/cyan]
reads everything, about 1 GB a second

[cyan]dedupfs estimate /data/caches --sample 5%[/cyan]
a large tree, in a twentieth of the time

[bold]Exit status[/bold]

0 done; 1 something could not be read, or the folder not at all; 2 wrong arguments; 130 interrupted, \
with the result of what was read until then
"""


def estimate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Any folder; only read.", show_default=False)
    ],
    *,
    sample: Annotated[
        str,
        typer.Option(
            metavar="PERCENT",
            help="Read this part: of small files all of some sizes, of large ones some windows of "
            "8 MiB, the same in each. Default: all.",
            show_default=False,
        ),
    ] = "100%",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; sizes in bytes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Say what a dedupfs mount would save on the files in DIR. Needs no mount, changes nothing.

    Content is cut and compared as a mount does it, by fingerprints. A mount saves a little more: it
    also finds equal pages in pieces that differ. Memory stays below some 300 MB, however much there is.
    """
    part = _part(sample)
    from dedupfs.cli.progress import phases  # noqa: PLC0415
    from dedupfs.service.mounts import resolve  # noqa: PLC0415
    from dedupfs.transfer.estimating import Estimator  # noqa: PLC0415

    with phases(quiet=quiet or as_json) as tick:
        work = Estimator(os.fsencode(resolve(folder)), tick, sample=part)
        try:
            work.run()
        except KeyboardInterrupt:
            typer.echo("dedupfs: interrupted; this is of what was read so far", err=True)
    found = work.result()
    if as_json:
        typer.echo(json.dumps(found.document(), indent=2))
    else:
        _tell(found)
    for problem in found.problems.first:
        typer.echo(f"dedupfs: {problem}", err=True)
    if not found.is_complete:
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(REFUSED if found.problems.count else 0)


def _part(text: str) -> float:
    try:
        part = quantities.parse_fraction(text)
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise UsageError(f"--sample {text}: want a part above 0 and up to 100%, such as 10%")
    return part


def _tell(found: Estimate) -> None:
    from rich.console import Console  # noqa: PLC0415

    console = Console(soft_wrap=True, highlight=False)
    if not found.is_complete or found.sample < 1:
        console.print(f"of {size(found.logical_bytes)}, {size(found.read_bytes)} were read, "
                      "the rest is taken to be alike")  # fmt: skip
    saved = found.logical_bytes - found.unique_bytes
    percent = 100 * saved / found.logical_bytes if found.logical_bytes else 0.0
    console.print(f"{found.files:,} files, {size(found.logical_bytes)}")
    console.print(f"in a mount {size(found.unique_bytes)}, ratio {found.ratio:.2f}: "
                  f"saves {size(saved)} ({percent:.1f} %)")  # fmt: skip
    if found.duplicate_bytes:
        console.print(f"{size(found.duplicate_bytes)} of that in files equal as a whole")
    _tell_folders(console, found)
    _tell_duplicates(console, found)


def _tell_folders(console: Console, found: Estimate) -> None:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not found.folders:
        return
    table = Table("folder", box=None, pad_edge=False)
    for name in ("files", "size", "its own", "shared"):
        table.add_column(name, justify="right")
    ranked = sorted(found.folders, key=lambda folder: -folder.logical_bytes)
    for folder in ranked[:_ROWS]:
        read = folder.read_bytes
        factor = folder.logical_bytes / read if read else 0.0
        own = min(read, folder.own_bytes)
        shared = f"{100 * (read - own) / read:.1f} %" if read else "not read"
        name = folder.name if folder.name.isprintable() else ascii(folder.name)
        table.add_row(
            Text("(files beside them)" if name == "." else name, overflow="fold"),
            f"{folder.files:,}", size(folder.logical_bytes), size(round(own * factor)), shared,
        )  # fmt: skip
    console.print()
    console.print(table)
    if len(ranked) > _ROWS:
        console.print(f"and {len(ranked) - _ROWS:,} more folders")


def _tell_duplicates(console: Console, found: Estimate) -> None:
    from rich.text import Text  # noqa: PLC0415

    if not found.duplicates:
        return
    console.print("\nequal as a whole, the largest:")
    for one in found.duplicates[:_ROWS]:
        console.print(Text(f"  {one.count} x {size(one.file_bytes)}  {one.paths[0]}"))
