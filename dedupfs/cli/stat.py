"""`dedupfs stat`: what one file takes, who shares its bytes, and how it is read."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli import progress
from dedupfs.core.quantities import size

if TYPE_CHECKING:
    from rich.table import Table

    Document = dict[str, object]

_SHARERS_SHOWN: Final = 5


def show_file(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A file inside a mount.", show_default=False),
    ],
    *,
    sharers: Annotated[
        int, typer.Option(metavar="N", min=0, help="How many files to list that share with it.")
    ] = _SHARERS_SHOWN,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; sizes in bytes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Show what a file takes, which files share its bytes, and whether readers bypass the daemon."""
    from dedupfs.service import survey  # noqa: PLC0415

    where = survey.inside(file)
    document = survey.stat(where.mount.store, where.path)
    if sharers:
        with progress.bar("who shares its bytes", quiet=quiet or as_json) as show:
            found = survey.sharers(where.mount.store, where.path, limit=sharers, show=show)
        document["shared_with"], document["sharing_files"] = found["rows"], found["count"]
    if as_json:
        import json  # noqa: PLC0415

        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console  # noqa: PLC0415

    Console().print(_table(str(file), document))


def _table(name: str, document: Document) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from dedupfs.cli.render import path_text  # noqa: PLC0415

    out = Table(
        box=None, show_header=False, title=Text(path_text(name), style="bold"),
        title_justify="left", pad_edge=False,
    )  # fmt: skip
    out.add_column(style="cyan", no_wrap=True)
    out.add_column(overflow="fold")
    for label, value in _rows(document):
        out.add_row(label, Text(value))
    return out


def _rows(document: Document) -> list[tuple[str, str]]:
    from dedupfs.cli.render import path_text  # noqa: PLC0415

    def amount(key: str) -> str:
        value = document[key]
        return size(value) if isinstance(value, int) else "?"

    handles, damaged = document["open_handles"], document["damaged_bytes"]
    links = f", {document['links']} names" if document["links"] != 1 else ""
    passed = document["is_read_past_the_daemon"]
    rows = [
        ("size", f"{amount('size_bytes')}, of it {amount('logical_bytes')} content{links}"),
        ("on disk", f"its part {amount('physical_share_bytes')}, own {amount('exclusive_bytes')}"),
        ("extents", f"{document['extents']:,}"),
        ("read", "past the daemon" if passed else f"by the daemon: {document['why_not']}"),
        *([("open", f"{handles} times")] if handles else []),
        ("damaged", f"{amount('damaged_bytes')}: dedupfs scrub" if damaged else "nothing known"),
    ]
    listed = document.get("shared_with")
    if isinstance(listed, list):
        for number, other in enumerate(listed):
            path = path_text(other["path"]) if other["path"] else "(open, without a name)"
            rows.append(("" if number else "shared", f"{size(other['bytes'])} with {path}"))
        more = int(str(document["sharing_files"])) - len(listed)
        if more or not listed:
            rows.append(("", f"and {more:,} more files") if listed else ("shared", "with no file"))
    return rows
