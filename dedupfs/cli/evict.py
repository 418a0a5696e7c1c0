"""`dedupfs evict` and `dedupfs gc`: what would go, in which order and why; or let it go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli.errors import UsageError
from dedupfs.core import quantities

if TYPE_CHECKING:
    Document = dict[str, object]

_ROWS_SHOWN: Final = 40
_SHARERS_SHOWN: Final = 3

EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs evict /data/cache --dry-run[/cyan]
what would go next, until the low mark of the limits

[cyan]dedupfs evict /data/cache --to 200G[/cyan]
remove units until the content takes 200 GiB of disk
"""

_MountPoint = Annotated[Path, typer.Argument(metavar="MOUNTPOINT", show_default=False)]
_DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would go.")]
_AsJson = Annotated[bool, typer.Option("--json", help="One JSON document; sizes in bytes.")]


def evict(
    path: _MountPoint,
    *,
    to: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Until the content takes so much of the disk."),
    ] = None,
    dry_run: _DryRun = False,
    as_json: _AsJson = False,
) -> None:
    """Remove units, first those of dead owners, then the least recently used, until --to SIZE.

    Without --to: until the low mark of the limits. Never removed: what is open, mapped or pinned,
    and folders whose process lives.
    """
    from dedupfs.service import steering  # noqa: PLC0415

    try:
        to_bytes = None if to is None else quantities.parse_size(to)
    except ValueError:
        raise UsageError(f"--to {to}: want a size such as 200G") from None
    _show(steering.evict(path, to_bytes=to_bytes, dry_run=dry_run), as_json=as_json)


def gc(path: _MountPoint, *, dry_run: _DryRun = False, as_json: _AsJson = False) -> None:
    """Remove the folders whose process has ended, however full the mount is."""
    from dedupfs.service import steering  # noqa: PLC0415

    _show(steering.gc(path, dry_run=dry_run), as_json=as_json)


def _show(document: Document, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(soft_wrap=True)
    plan, protected = _rows(document, "plan"), _rows(document, "protected")
    is_done = document["done"] is True
    count, frees = _number(document, "units"), _number(document, "frees_bytes")
    if plan:
        table = Table("unit", "frees", "why", box=None, pad_edge=False)
        for row in plan[:_ROWS_SHOWN]:
            others = row["with"] if isinstance(row["with"], list) else []
            named = ", ".join(map(_printable, others[:_SHARERS_SHOWN]))
            rest = len(others) - _SHARERS_SHOWN
            more = f", with {named}" + (f" and {rest:,} more" if rest > 0 else "") if others else ""
            table.add_row(
                Text(_printable(row["path"])),
                quantities.size(_number(row, "frees_bytes")),
                Text(f"{row['reason']}{more}"),
            )
        console.print(table)
        if len(plan) > _ROWS_SHOWN:
            console.print(f"and {len(plan) - _ROWS_SHOWN:,} more")
    verb = "removed" if is_done else "would go"
    console.print(f"{count:,} units {verb}: {quantities.size(frees)}")
    for row in protected[: _ROWS_SHOWN // 2]:
        console.print(Text(f"stays: {_printable(row['path'])}: {row['why']}", style="dim"))
    if not document["is_enough"]:
        need = quantities.size(_number(document, "needs_bytes"))
        console.print(f"that is not the {need} asked for: nothing else can go", style="yellow")


def _rows(document: Document, key: str) -> list[Document]:
    found = document.get(key)
    return found if isinstance(found, list) else []


def _number(document: Document, key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0


def _printable(text: object) -> str:
    shown = str(text)
    return shown if shown.isprintable() else ascii(shown)
