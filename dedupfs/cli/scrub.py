"""`dedupfs scrub`: a progress bar while it runs, what was found at its end, exit codes."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING, Final

import typer

from dedupfs.cli import errors
from dedupfs.core.errors import DedupfsError
from dedupfs.core.quantities import parse_rate, size
from dedupfs.service import scrubbing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dedupfs.service.scrubbing import Request

ALL_WELL: Final = 0
DAMAGE: Final = 1
CANNOT: Final = 2


def rate(text: str) -> int:
    """Return bytes a second of e.g. `50M` or `1.5GiB/s`; raise UsageError."""
    with contextlib.suppress(ValueError):
        value = parse_rate(text)
        if value > 0:
            return value
    raise errors.UsageError(f"--rate {text}: want a size a second above 0, such as 50M")


def run(path: Path, request: Request, *, as_json: bool, quiet: bool) -> int:
    """Scrub, and tell what was found; return the exit code."""
    try:
        with _progress(quiet=quiet or as_json) as show:
            document = scrubbing.scrub(path, request, show)
    except DedupfsError as error:
        typer.echo(f"dedupfs: {error}", err=True)
        return CANNOT
    except KeyboardInterrupt:
        typer.echo("dedupfs: scrub interrupted, the next one goes on from here", err=True)
        return errors.INTERRUPTED
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        _tell(document, quiet=quiet)
    if document["state"] != "done":
        typer.echo(
            f"dedupfs: scrub {document['state']}: {document['error'] or 'asked to'}", err=True
        )
        return CANNOT
    return DAMAGE if document["damaged_bytes"] else ALL_WELL


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[dict[str, object]], None]]:
    if quiet or not sys.stderr.isatty():
        yield lambda _document: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn()
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("scrub")
        yield lambda document: bar.update(
            task, total=_number(document, "total_bytes"), completed=_number(document, "done_bytes")
        )


def _tell(document: dict[str, object], *, quiet: bool) -> None:
    if not quiet:
        typer.echo(
            f"{_number(document, 'chunks'):,} chunks checked, "
            f"{size(_number(document, 'checked_bytes'))}"
        )
        unchecked = _number(document, "unchecked_bytes")
        if unchecked:
            typer.echo(f"{size(unchecked)} have no fingerprint: read, but not checked")
    damaged = _number(document, "damaged_bytes")
    if not damaged:
        if not quiet and document["state"] == "done":
            typer.echo("no damage")
        return
    count = _number(document, "damaged_files")
    typer.echo(f"{size(damaged)} are damaged, in {count:,} files:")
    listed = document["files"]
    for file in listed if isinstance(listed, list) else []:
        paths = file["paths"] or [f"inode {file['inode']}, unlinked and still open"]
        for path in paths:
            # Escaped: names may hold line breaks, and bytes that are no text.
            shown = path if path.isprintable() else ascii(path)
            typer.echo(f"  {shown}  ({size(file['damaged_bytes'])})")
    if isinstance(listed, list) and len(listed) < count:
        typer.echo(f"  and {count - len(listed):,} more")


def _number(document: dict[str, object], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0
