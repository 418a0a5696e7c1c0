"""`dedupfs why`, `pin`, `unpin` and `set`: ask about one unit, protect it, change a limit."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dedupfs.cli.errors import UsageError
from dedupfs.core import quantities

if TYPE_CHECKING:
    Document = dict[str, object]

_AsJson = Annotated[bool, typer.Option("--json", help="One JSON document; sizes in bytes.")]
_Inside = Annotated[
    Path, typer.Argument(metavar="PATH", help="A path in a mount.", show_default=False)
]


def why(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A path in a mount; may be gone.", show_default=False),
    ],
    *,
    as_json: _AsJson = False,
) -> None:
    """Say why what is or was at PATH was evicted or is kept. Exit status 1: nothing is known."""
    from dedupfs.service import steering  # noqa: PLC0415

    document = steering.why(path)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
    else:
        for line in _lines(path, document):
            typer.echo(line)
    if document["state"] == "unknown":
        raise typer.Exit(1)


def _lines(path: Path, document: Document) -> list[str]:
    match document["state"]:
        case "evicted":
            when = datetime.fromtimestamp(_float(document, "time_s")).astimezone()
            freed = quantities.size(int(_float(document, "freed_bytes")))
            gone = f"{path} was evicted with unit {document['unit']} at {when:%Y-%m-%d %H:%M:%S}"
            return [f"{gone}: {document['why']}; freed {freed}"]
        case "above":
            return [f"{path} is above all units: it is never evicted itself"]
        case "unknown":
            return [f"{path}: there is no such file, and it is not among the last evictions"]
        case _:
            return [f"{path} is kept, in unit {document['unit']}", *_kept(document)]


def _kept(document: Document) -> list[str]:
    age = quantities.duration(int(_float(document, "age_s")))
    lines = [f"  last used {age} ago, {document['queue']}"]
    reason = document.get("why")
    if reason:
        by = document.get("open_by")
        who = f", by {', '.join(by)}" if isinstance(by, list) and by else ""
        lines.append(f"  protected: {reason}{who}")
    else:
        lines.append(f"  may be evicted: number {document['position']} in its queue")
    frees = int(_float(document, "frees_bytes"))
    if frees:
        lines.append(f"  alone it would free {quantities.size(frees)}")
    else:
        lines.append("  alone it would free nothing: it is empty, or others share all its bytes")
    from dedupfs.cli import render  # noqa: PLC0415 - slow to import

    pressure = _float(document, "pressure")
    lines.append(f"  the mount is at {render.percent_full(pressure)} of its nearest limit")
    return lines


def pin(path: _Inside) -> None:
    """Keep the unit that PATH is in from ever being evicted."""
    from dedupfs.service import steering  # noqa: PLC0415

    typer.echo(f"pinned: {steering.pin(path)['unit']}")


def unpin(path: _Inside) -> None:
    """Let the unit that PATH is in be evicted again."""
    from dedupfs.service import steering  # noqa: PLC0415

    typer.echo(f"no longer pinned: {steering.unpin(path)['unit']}")


def set_options(
    path: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", show_default=False)],
    changes: Annotated[list[str], typer.Argument(metavar="OPTION=VALUE...", show_default=False)],
    *,
    as_json: _AsJson = False,
) -> None:
    """Change limits of a mount while it is in use, such as capacity=200G. Not kept at its end.

    Options: capacity, min-free, max-files, low-mark, high-mark, ttl, policy, owners, auto-gc; none
    takes a limit away.
    """
    from dedupfs.service import steering  # noqa: PLC0415

    values: dict[str, str] = {}
    for change in changes:
        name, has_value, value = change.partition("=")
        if not has_value or not name:
            raise UsageError(f"{change}: want OPTION=VALUE, such as capacity=200G")
        values[name.strip().replace("_", "-")] = value
    document = steering.set_options(path, values)
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    done = document["set"]
    for name, value in done.items() if isinstance(done, dict) else ():
        typer.echo(f"{name} = {value}")
    limits = document["limits"]
    if isinstance(limits, dict) and _float(limits, "pressure") > _float(limits, "high_mark"):
        from dedupfs.cli import render  # noqa: PLC0415 - slow to import

        full, low = render.percent_full(_float(limits, "pressure")), _float(limits, "low_mark")
        typer.echo(f"that is {full} full: what may be evicted goes now, down to {low:.0%}")


def _float(document: Document, key: str) -> float:
    value = document.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
