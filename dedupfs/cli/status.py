"""`dedupfs status`: what a mount holds, takes and saves, and who shares it with whom."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli import errors, progress
from dedupfs.cli.errors import UsageError
from dedupfs.core.errors import DedupfsError

if TYPE_CHECKING:
    Document = dict[str, object]

UNITS_SHOWN: Final = 10
_WAIT_S: Final = 3.0


def show_status(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT",
            help="A mount point or a store. Default: all dedupfs mounts.",
            show_default=False,
        ),
    ] = None,
    *,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Ask this store, mounted or not.")
    ] = None,
    units: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="How many of the biggest units to show, 0 for none; with --json none unless asked "
            "for. Default: 10.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON document (a list of them without MOUNTPOINT); sizes in bytes."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Show what a mount holds, what it takes on disk, and what deduplication saves.

    Live from the daemon, or from the store's index when nothing is mounted. A unit is a folder or
    file at the top of the mount. Its own is what nobody else has: what its removal would free.
    """
    from dedupfs.service import report  # noqa: PLC0415

    limit = _limit(units, default=0 if as_json else UNITS_SHOWN)
    problems: list[str] = []
    if store is not None:
        documents = [report.of_store(store)]
    elif path is not None:
        documents = [report.of_path(path)]
    else:
        documents, problems = report.of_all()
    for document in documents:
        if limit != 0 and document["pid"] is not None:
            problems += _add_units(document, limit, quiet=quiet)
    is_list = store is None and path is None
    _show(documents, documents if is_list else documents[0], as_json=as_json)
    for problem in problems:
        typer.echo(f"dedupfs: {problem}", err=True)
    raise typer.Exit(errors.REFUSED if problems else 0)


def _limit(text: str | None, *, default: int) -> int | None:
    """Return how many units to show; None: all."""
    if text is None:
        return default
    if text == "all":
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise UsageError(f"--units {text}: want a number, or all")


def _add_units(document: Document, limit: int | None, *, quiet: bool) -> list[str]:
    """Add the biggest units to a status; return what went wrong."""
    from dedupfs.service import survey  # noqa: PLC0415

    try:
        with progress.bar("who shares what", quiet=quiet) as show:
            found = survey.units(
                Path(str(document["store"])), limit=limit, wait_s=_WAIT_S, show=show
            )
    except DedupfsError as error:
        return [f"{document['mountpoint']}: {error}"]
    document["units"] = found["units"]
    document["units_count"] = found["count"]
    document["units_as_of_s"] = found["as_of_s"]
    return []


def _show(documents: list[Document], whole: object, *, as_json: bool) -> None:
    if as_json:
        import json  # noqa: PLC0415

        typer.echo(json.dumps(whole, indent=2))
        return
    if not documents:
        typer.echo("nothing is mounted")
        return
    from rich.console import Console  # noqa: PLC0415

    from dedupfs.cli.render import view  # noqa: PLC0415

    console = Console()
    for number, document in enumerate(documents):
        if number:
            console.print()
        console.print(view(document, is_plain=not _has_blocks()))


def _has_blocks() -> bool:
    """Tell whether the terminal or pipe takes block characters."""
    return "utf" in (sys.stdout.encoding or "").lower()
