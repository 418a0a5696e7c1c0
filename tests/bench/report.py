"""What `make bench` prints beyond `dedupfs bench`: the savings, and the table of the README."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.table import Table

from dedupfs.bench.figures import MIB, Kind, times
from dedupfs.cli.bench_table import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.savings import Saving
    from dedupfs.bench.figures import Line
    from dedupfs.bench.report import Report

# The target of a figure: how fast beside the baseline; least a second; most as a factor; for the
# page cache most in files. A mount that misses one is marked in the table.
LEAST_RATIOS: Final = {
    ("ranks", "sync_s"): 0.5,
    ("write-duplicate", "close"): 0.6,
    ("write-new", "close"): 0.45,
    ("write-new", "sync"): 0.9,
    ("arrow", "new"): 0.8,
    ("arrow", "again"): 0.8,
    ("read", "cold"): 0.95,
    ("read", "warm"): 0.98,
    ("mmap", "cold"): 0.98,
    ("mmap", "new"): 0.98,
    ("mmap", "warm"): 0.98,
    ("metadata", "list-cold"): 0.33,
    ("metadata", "list"): 0.83,
}
LEAST_RATES: Final = {("small", "create"): 3000.0}
MOST_FILES: Final = {("mmap-ranks", "cache"): 1.05}
MOST_COST: Final = 1.3


@dataclass(frozen=True)
class Wanted:
    """A target in words, and whether a mount has it."""

    text: str
    reached: bool


def wanted(report: Report, line: Line, name: str) -> Wanted | None:
    """Return what a figure should be on a mount, None for most."""
    key, median = (line.job, line.figure.key), line.median(name)
    if median is None:
        return None
    if key in LEAST_RATIOS:
        ratio = line.ratio(name, report.baseline)
        return Wanted(
            f">= {LEAST_RATIOS[key]:g}x", ratio is not None and ratio >= LEAST_RATIOS[key]
        )
    if key in LEAST_RATES:
        return Wanted(f">= {LEAST_RATES[key]:,.0f}", median >= LEAST_RATES[key])
    if key in MOST_FILES:
        files = median * MIB / report.settings.size_bytes
        return Wanted(f"<= {MOST_FILES[key]:g} files", files <= MOST_FILES[key])
    if line.figure.kind is Kind.FACTOR:
        return Wanted(f"<= {MOST_COST:g}x", median <= MOST_COST)
    return None


def _markdown_cell(report: Report, line: Line, name: str) -> str:
    median = line.median(name)
    if median is None:
        return ""
    ratio = line.ratio(name, report.baseline)
    is_baseline = name == report.baseline
    beside = "" if is_baseline or ratio is None else f", {times(ratio)}"
    want = None if is_baseline else wanted(report, line, name)
    missed = " (missed)" if want and not want.reached else ""
    return f"{number(median)} {line.figure.unit}{beside}{missed}"


def markdown(report: Report) -> str:
    """Return all figures as the table of a README."""
    names = [report.baseline, *(name for name in report.names if name != report.baseline)]
    rows = [["job", "wanted", *names], ["---"] * (2 + len(names))]
    for line in report.lines:
        wants = [want.text for name in names[1:] if (want := wanted(report, line, name))]
        cells = [_markdown_cell(report, line, name) for name in names]
        rows.append([line.figure.label, wants[0] if wants else "", *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _mark(*, reached: bool) -> str:
    return "[green]yes[/]" if reached else "[red]no[/]"


def savings_table(savings: Sequence[Saving], title: str) -> Table:
    """Return the table of ratios."""
    table = Table(title=title, title_justify="left")
    table.add_column("input")
    for heading in ("logical MiB", "on disk MiB", "ratio", "wanted", "reached"):
        table.add_column(heading, justify="right")
    for saving in savings:
        table.add_row(
            saving.case.name,
            f"{saving.logical_bytes / MIB:,.1f}",
            f"{saving.allocated_bytes / MIB:,.1f}",
            f"{saving.ratio:.3f}",
            f"{saving.case.at_least:.3f}",
            _mark(reached=saving.reached),
        )
    return table


def savings_document(savings: Sequence[Saving]) -> list[dict[str, object]]:
    """Return the savings for other programs."""
    return [
        {
            "input": saving.case.name,
            "logical_bytes": saving.logical_bytes,
            "allocated_bytes": saving.allocated_bytes,
            "ratio": saving.ratio,
            "wanted": saving.case.at_least,
        }
        for saving in savings
    ]
