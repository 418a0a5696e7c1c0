"""The tables and the JSON document that a bench ends with."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Final

from rich.table import Table

from bench.compare import PLAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.compare import Line
    from bench.savings import Saving

# What issue 2 asks for: a ratio to the plain directory, or a rate, by the beginning of a job's name.
TARGET_RATIOS: Final = {
    "1 MiB sequential write, duplicate, to close": 0.5,
    "sequential read, warm": 0.95,
    "sequential read, cold": 0.8,
}
TARGET_RATES: Final = {"create, write and close": 1500.0}

Json = dict[str, object]


def _mark(*, reached: bool) -> str:
    return "[green]yes[/]" if reached else "[red]no[/]"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.1f}"


def savings_table(savings: Sequence[Saving], title: str) -> Table:
    """Return the table of ratios."""
    table = Table(title=title, title_justify="left")
    table.add_column("input")
    for heading in ("logical MiB", "on disk MiB", "ratio", "wanted", "reached"):
        table.add_column(heading, justify="right")
    for saving in savings:
        table.add_row(
            saving.case.name,
            _mib(saving.logical_bytes),
            _mib(saving.allocated_bytes),
            f"{saving.ratio:.3f}",
            f"{saving.case.at_least:.3f}",
            _mark(reached=saving.reached),
        )
    return table


def wanted(line: Line, target: str) -> tuple[str, str]:
    """Return what a job should reach on a mount and whether it does, both empty for most."""
    if line.name in TARGET_RATIOS:
        least = TARGET_RATIOS[line.name]
        return f">= {least:g}x", _mark(reached=line.ratio(target) >= least)
    for beginning, least in TARGET_RATES.items():
        if line.name.startswith(beginning):
            return f">= {least:,.0f}", _mark(reached=line.median(target) >= least)
    return "", ""


def line_text(line: Line) -> str:
    """Return one job's medians in a line, to be shown while the next job runs."""
    others = [name for name in line.rates if name != PLAIN]
    parts = [f"{name} {line.median(name):,.0f} ({line.ratio(name):.2f}x)" for name in others]
    return f"{line.name}: plain {line.median(PLAIN):,.0f} {line.unit}, " + ", ".join(parts)


def speed_table(lines: Sequence[Line], title: str) -> Table:
    """Return the table of rates; ratios are of medians, to the plain directory."""
    modes = [name for name in lines[0].rates if name != PLAIN]
    table = Table(title=title, title_justify="left")
    table.add_column("job")
    table.add_column("unit")
    table.add_column("plain", justify="right")
    for mode in modes:
        for heading in (mode, "ratio", "reached"):
            table.add_column(heading, justify="right")
    table.add_column("wanted", justify="right")
    for line in lines:
        cells = [line.name, line.unit, f"{line.median(PLAIN):,.0f}"]
        for mode in modes:
            cells += [f"{line.median(mode):,.0f}", f"{line.ratio(mode):.2f}", wanted(line, mode)[1]]
        table.add_row(*cells, wanted(line, modes[0])[0] if modes else "")
    return table


def machine() -> Json:
    """Return what the figures depend on."""
    return {
        "dedupfs": metadata.version("dedupfs"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def document(savings: Sequence[Saving], lines: Sequence[Line]) -> Json:
    """Return everything measured, for other programs."""
    return {
        "machine": machine(),
        "savings": [
            {
                "input": saving.case.name,
                "logical_bytes": saving.logical_bytes,
                "allocated_bytes": saving.allocated_bytes,
                "ratio": saving.ratio,
                "wanted": saving.case.at_least,
            }
            for saving in savings
        ],
        "speed": [
            {
                "job": line.name,
                "unit": line.unit,
                "rates": {name: list(rates) for name, rates in line.rates.items()},
                "medians": {name: line.median(name) for name in line.rates},
                "ratios": {name: line.ratio(name) for name in line.rates},
            }
            for line in lines
        ],
    }


def write_json(path: Path, content: Json) -> None:
    """Write the document."""
    path.write_text(json.dumps(content, indent=2) + "\n")
