"""The figures of a bench as tables for people, and as the table of a README."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from dedupfs.bench.figures import Kind, times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dedupfs.bench.figures import Line
    from dedupfs.bench.report import Report

_SMALL: Final = 10.0
_THOUSANDS: Final = 100_000.0


def number(value: float) -> str:
    """Return a figure with three digits or more, e.g. `0.188`, `2,553` or `931k`."""
    if value < _SMALL:
        return f"{value:.3f}"
    return f"{value:,.0f}" if value < _THOUSANDS else f"{value / 1000:,.0f}k"


def _cell(line: Line, target: str, *, narrow: bool) -> Text:
    median = line.median(target)
    if median is None:
        return Text("-", style="dim")
    values = line.values[target]
    text = Text(number(median))
    if len(values) > 1:
        text.append("\n" if narrow else "  ")
        text.append(f"{number(min(values))}..{number(max(values))}", style="dim")
    return text


def tables(report: Report, *, narrow: bool = False) -> list[Table]:
    """Return a table of speed and one of space; those without lines are left out.

    `narrow`: least and most go under the medians.
    """
    shown = report.lines
    speed = [line for line in shown if line.figure.kind is not Kind.SPACE]
    space = [line for line in shown if line.figure.kind is Kind.SPACE]
    to = report.baseline
    speed_title = (
        f"Speed: medians of {report.rounds} rounds, least..most; ratio: times as fast as {to}"
    )
    space_title = f"Space: the same; ratio: times as much as {to}"
    titled = [(speed, speed_title), (space, space_title)]
    return [_table(report, some, title, narrow=narrow) for some, title in titled if some]


def _table(report: Report, lines: Sequence[Line], title: str, *, narrow: bool) -> Table:
    others = [name for name in report.names if name != report.baseline]
    if not others:
        title = title.partition("; ratio")[0]
    out = Table(title=Text(title), title_justify="left")
    out.add_column("job")
    out.add_column("unit")
    out.add_column(Text(report.baseline), justify="right")
    for name in others:
        out.add_column(Text(name), justify="right")
        out.add_column("ratio", justify="right", style="bold")
    for line in lines:
        cells: list[Text] = [_cell(line, report.baseline, narrow=narrow)]
        for name in others:
            ratio = line.ratio(name, report.baseline)
            cells += [
                _cell(line, name, narrow=narrow),
                Text("-" if ratio is None else times(ratio)),
            ]
        out.add_row(line.figure.label, line.figure.unit, *cells)
    return out


def line_text(report: Report, line: Line) -> str:
    """Return one figure's medians in a line, to be shown while the next job runs."""
    parts = []
    for name in report.names:
        median, ratio = line.median(name), line.ratio(name, report.baseline)
        if median is not None:
            beside = f" ({times(ratio)})" if ratio and name != report.baseline else ""
            parts.append(f"{name} {number(median)} {line.figure.unit}{beside}")
    return f"{line.figure.label}: " + ", ".join(parts)
