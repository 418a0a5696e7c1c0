"""`dedupfs report`: one HTML page of a mount, with all it needs inside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli import progress
from dedupfs.core.errors import DedupfsError
from dedupfs.core.quantities import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    Document = dict[str, object]

_UNITS_LISTED: Final = 100
_UNITS_MAPPED: Final = 40
_PARTNERS: Final = 64


class NoExtra(DedupfsError):
    """The libraries for the page are not there."""


def report(
    out: Annotated[
        Path, typer.Argument(metavar="OUT.html", help="The page to write.", show_default=False)
    ],
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT",
            help="A dedupfs mount. Default: the only one there is.",
            show_default=False,
        ),
    ] = None,
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Write a page with space over time, who shares what with whom, and tables.

    One file that loads nothing from elsewhere. It needs the extra "report": matplotlib and jinja2.
    """
    try:
        from dedupfs.cli import plots  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise NoExtra(
            f"report needs {error.name}: install it with pip install 'dedupfs[report]'"
        ) from None
    from dedupfs.service import report as status_of  # noqa: PLC0415
    from dedupfs.service import survey  # noqa: PLC0415

    if out.is_dir():
        raise DedupfsError(f"{out} is a folder: the page comes first, report page.html {out}")
    if not out.parent.is_dir():
        raise DedupfsError(f"{out}: there is no folder {out.parent}")
    mount = survey.only_mount(path)
    with progress.bar("who shares what", quiet=quiet) as show:
        document = status_of.of_store(mount.store)
        found = survey.units(mount.store, limit=_UNITS_LISTED, partners=_PARTNERS, show=show)
        columns, rows = survey.history(mount.store)
    units = [unit for unit in _rows_of(found) if unit["path"] is not None]
    page = plots.page(
        {
            "mountpoint": str(mount.path),
            "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            "facts": _facts(document),
            "units": [_unit_row(unit) for unit in units],
            "units_more": max(0, int(str(found["count"])) - len(units)),
            "cells": _cells(units[:_UNITS_MAPPED]),
            "names": [_name(unit) for unit in units[:_UNITS_MAPPED]],
        },
        columns,
        rows,
    )
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DedupfsError(f"{out}: {error.strerror}") from None
    typer.echo(f"{out}: {size(out.stat().st_size)}")


@dataclass(frozen=True, slots=True)
class Cell:
    """What two units share, or what one has alone."""

    row: int
    column: int
    part: float  # of the smaller one's bytes, from 0 to 1
    text: str


def _rows_of(document: Document) -> list[Document]:
    listed = document["units"]
    return list(listed) if isinstance(listed, list) else []


def _number(document: Mapping[str, object], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0


def _name(unit: Document) -> str:
    from dedupfs.cli.render import path_text  # noqa: PLC0415

    # A lone surrogate, of a name that is no text, cannot be written.
    return path_text(unit["path"])


def _cells(units: list[Document]) -> list[Cell]:
    """Return the map of who shares what: a cell for each two units that share, and each itself."""
    at = {str(unit["path"]): number for number, unit in enumerate(units)}
    cells = []
    for row, unit in enumerate(units):
        held = max(1, _number(unit, "exclusive_bytes") + _number(unit, "shared_bytes"))
        own = _number(unit, "exclusive_bytes")
        cells.append(Cell(row, row, own / held, f"{_name(unit)}: {size(own)} its own"))
        listed = unit["shared_with"]
        for other in listed if isinstance(listed, list) else []:
            column = at.get(str(other["path"]))
            if column is not None:
                text = f"{_name(unit)} and {_name(other)}: {size(other['bytes'])} in common"
                cells.append(Cell(row, column, min(1.0, other["bytes"] / held), text))
    return cells


def _facts(document: Document) -> list[tuple[str, str]]:
    from dedupfs.cli import render  # noqa: PLC0415

    return render.facts(document)


def _unit_row(unit: Document) -> dict[str, object]:
    from dedupfs.cli.render import partners  # noqa: PLC0415

    own, shared = _number(unit, "exclusive_bytes"), _number(unit, "shared_bytes")
    return {
        "name": _name(unit),
        "written": size(_number(unit, "logical_bytes")),
        "own": size(own),
        "shared": size(shared),
        "files": f"{_number(unit, 'files'):,}",
        "partners": partners(unit),
        "own_percent": round(100 * own / max(1, own + shared), 1),
    }
