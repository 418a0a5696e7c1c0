"""The chart of a bench: space in MiB, and under it speed as ratios to the baseline."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from dedupfs.bench.figures import Kind, times
from dedupfs.bench.targets import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from dedupfs.bench.figures import Line
    from dedupfs.bench.report import Report

FORMATS: Final = (".svg", ".png")
INSTALL: Final = "a chart needs matplotlib: pip install 'dedupfs[report]'"
_COLOURS: Final = ("#1f6feb", "#d9730d", "#2da44e", "#8250df", "#bf3989", "#57606a")
_GREY: Final = "#8c959f"
_TEXT: Final = "#24292f"
_INCHES: Final = 0.27  # of a row with one dot or bar
_TITLE_ROWS: Final = 3  # title and axis of a panel
_SMALL: Final = 10.0


def check(path: Path) -> None:
    """Raise BenchError, before the work, when a chart cannot be drawn or has no known format."""
    if path.suffix not in FORMATS:
        raise BenchError(f"{path}: a chart is a {' or '.join(FORMATS)} file")
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415 - of the optional extra `report`
    except ImportError:
        raise BenchError(INSTALL) from None


def draw(report: Report, path: Path) -> None:
    """Write the chart; raises OSError, and BenchError when no job that ran has a place in it."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    shown = [line for line in report.lines if line.figure.headline]
    space = [line for line in shown if line.figure.kind is Kind.SPACE]
    speed = [line for line in shown if line.figure.kind in {Kind.RATE, Kind.SECONDS}]
    others = max(len(report.names) - 1, 1)
    panels = [
        (_space, space, _TITLE_ROWS + len(space) * (0.5 + 0.7 * len(report.names))),
        (_speed, speed, _TITLE_ROWS + len(speed) * (0.4 + 0.6 * others)),
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        raise BenchError("none of these jobs has a figure for the chart")
    heights = [rows for _draw, _lines, rows in panels]
    with mpl.rc_context({
        "svg.hashsalt": "dedupfs",  # the same figures give the same file
        "svg.fonttype": "none",  # text, in the reader's own font
        "font.size": 9.5,
        "text.color": _TEXT,
        "axes.labelcolor": _TEXT,
        "xtick.color": _TEXT,
        "ytick.color": _TEXT,
        "axes.edgecolor": "#d0d7de",
    }):  # fmt: skip
        figure = Figure(figsize=(10, _INCHES * sum(heights)), layout="constrained")
        grid = {"height_ratios": heights}
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw=grid)[:, 0]
        for one, (panel, lines, _rows) in zip(axes, panels, strict=True):
            panel(one, report, lines)
            _frame(one, lines)
        names = [Patch(color=_colour(report, name), label=name) for name in report.names]
        figure.legend(handles=names, loc="outside upper right", ncols=6, frameon=False)
        # White behind it, so that a dark page shows it, too.
        figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else {})


def _others(report: Report) -> list[str]:
    return [name for name in report.names if name != report.baseline]


def _colour(report: Report, name: str) -> str:
    if name == report.baseline:
        return _GREY
    return _COLOURS[_others(report).index(name) % len(_COLOURS)]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < _SMALL else f"{value:,.0f}"


def _speed(axes: Axes, report: Report, lines: Sequence[Line]) -> None:
    """Draw a dot for each ratio, tied to the line of the baseline; the scale is logarithmic."""
    names = _others(report)
    axes.axvline(1, color=_GREY, linewidth=1.2, zorder=1)
    everything = []
    for at, name in enumerate(names):
        shift = (at - (len(names) - 1) / 2) * 0.6 / len(names)
        for row, line in enumerate(lines):
            ratio, median = line.ratio(name, report.baseline), line.median(name)
            if ratio and median is not None:
                everything.append(ratio)
                text = f"{times(ratio)}  ({_number(median)} {line.figure.unit})"
                _dot(axes, (ratio, row + shift), text, _colour(report, name))
    _logarithmic(axes, everything)
    title = f"Speed: {report.baseline} is 1x, right is faster"
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)


def _dot(axes: Axes, at: tuple[float, float], text: str, colour: str) -> None:
    ratio, row = at
    faster = ratio >= 1
    axes.hlines(row, 1, ratio, color=colour, linewidth=2.4, alpha=0.35, zorder=2)
    axes.scatter([ratio], [row], s=30, color=colour, zorder=3)
    axes.annotate(
        text,
        at,
        (7 if faster else -7, 0),
        textcoords="offset points",
        ha="left" if faster else "right",
        va="center",
        fontsize=7.5,
        color=colour,
    )


def _logarithmic(axes: Axes, ratios: Sequence[float]) -> None:
    """Set a scale of powers of two, with room at both ends for what the dots say."""
    low, high = math.log2(min([*ratios, 0.5])), math.log2(max([*ratios, 2]))
    room = 0.36 * (high - low)
    axes.set_xscale("log", base=2)
    axes.set_xlim(2 ** (low - room), 2 ** (high + room))
    step = max(1, math.ceil((high - low) / 6))
    powers = range(-step * (-math.floor(low) // step), math.ceil(high) + 1, step)
    ticks = [2.0**power for power in powers]
    axes.set_xticks(ticks, [f"{tick:g}x" if tick >= 1 else f"1/{1 / tick:g}" for tick in ticks])
    axes.minorticks_off()


def _space(axes: Axes, report: Report, lines: Sequence[Line]) -> None:
    """Draw a bar of MiB for each directory, the baseline among them."""
    height = 0.8 / len(report.names)
    for at, name in enumerate(report.names):
        shift = (at - (len(report.names) - 1) / 2) * height
        medians = [(row, line.median(name)) for row, line in enumerate(lines)]
        found = [(row, median) for row, median in medians if median is not None]
        bars = axes.barh(
            [row + shift for row, _median in found],
            [median for _row, median in found],
            height * 0.86,
            color=_colour(report, name),
        )
        texts = [f"{median:,.0f} MiB" for _row, median in found]
        axes.bar_label(bars, texts, padding=4, fontsize=7.5)
    axes.margins(x=0.12)
    axes.set_title("Space: less is better", loc="left", fontweight="bold", fontsize=11)


def _frame(axes: Axes, lines: Sequence[Line]) -> None:
    axes.set_yticks(range(len(lines)), [line.figure.label for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#eaeef2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
