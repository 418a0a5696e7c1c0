"""The page of `dedupfs report`: plots as inline SVG in the page's own colours, and the template."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Final

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dedupfs.core.quantities import size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    Times: TypeAlias = np.ndarray[tuple[int], np.dtype[np.datetime64]]

# Stand-ins that become the page's colours, so that dark and light are both readable.
_INK: Final = "#010203"
_SERIES: Final = {"#010204": "var(--a)", "#010205": "var(--b)", "#010206": "var(--c)"}


def page(
    values: Mapping[str, object], columns: Sequence[str], rows: Sequence[Sequence[int]]
) -> str:
    """Return the page: `values` for the template, and samples of space by `columns`."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    folder = resources.files("dedupfs.cli") / "templates"
    template = environment.from_string((folder / "report.html.j2").read_text(encoding="utf-8"))
    series = {name: [row[at] for row in rows] for at, name in enumerate(columns)}
    local = [datetime.fromtimestamp(second, UTC).astimezone() for second in series["time_s"]]
    times = np.array([time.replace(tzinfo=None) for time in local], "datetime64[s]")
    space = {
        "content": series["logical_bytes"],
        "on disk": series["allocated_bytes"],
    }
    if any(series["evicted_bytes"]):
        space["evicted"] = series["evicted_bytes"]
    return template.render(
        **values,
        space=_plot("space", times, space),
        written=_plot(
            "written", times, {"written since the store was made": series["written_bytes"]}
        ),
        samples=len(rows),
    )


def _plot(name: str, times: Times, series: Mapping[str, list[int]]) -> str:
    """Return lines over time as an SVG element."""
    with mpl.rc_context(
        {
            "svg.hashsalt": name,
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 10,
            "text.color": _INK,
            "axes.edgecolor": _INK,
            "axes.labelcolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "savefig.transparent": True,
        }
    ):
        figure = Figure(figsize=(10, 2.8), layout="constrained")
        axes = figure.add_subplot()
        # In the unit of the largest value, so that the ticks are round in it.
        most = max(map(max, series.values()))
        scale = 1 << max(0, (most.bit_length() - 1) // 10 * 10)
        for (label, sizes), color in zip(series.items(), _SERIES, strict=False):
            values = [count / scale for count in sizes]
            axes.plot(times, values, color=color, label=label, linewidth=1.6)
            axes.fill_between(times, values, color=color, alpha=0.12, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _at: size(round(value * scale))))
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.grid(visible=True, axis="y", color=_INK, alpha=0.15, linewidth=0.6)
        axes.legend(frameon=False, loc="upper left", ncols=3)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for stand_in, color in {_INK: "currentColor", **_SERIES}.items():
        text = text.replace(stand_in, color)
    return text
