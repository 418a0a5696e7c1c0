"""What a job measures: figures with units, and the values of each directory by round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MIB: Final = 1 << 20
_SMALL_RATIO: Final = 0.1


def times(ratio: float) -> str:
    """Return a ratio as text, e.g. `0.47x`."""
    return f"{ratio:.2f}x" if ratio >= _SMALL_RATIO else f"{ratio:.3f}x"


class Kind(StrEnum):
    """How values compare."""

    RATE = "rate"  # a second: more is better
    SECONDS = "seconds"  # less is better; ratios are of speeds, so that more is better
    SPACE = "space"  # MiB: less is better, ratios are of sizes
    FACTOR = "factor"  # compares a directory with itself: no ratio to another


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report. `key` names it within its job, `headline`: it is in the chart."""

    key: str
    label: str
    unit: str
    kind: Kind
    headline: bool = False


@dataclass(slots=True)
class Line:
    """The values of one figure by directory, one for each round; no entry where there is none."""

    job: str
    figure: Figure
    values: dict[str, list[float]] = field(default_factory=dict)

    def median(self, target: str) -> float | None:
        """Return the middle value."""
        values = self.values.get(target)
        return statistics.median(values) if values else None

    def ratio(self, target: str, baseline: str) -> float | None:
        """Return how many times as fast, or for space how many times as much, as the baseline."""
        this, other = self.median(target), self.median(baseline)
        if self.figure.kind is Kind.FACTOR or this is None or other is None:
            return None
        if self.figure.kind is Kind.SECONDS:
            this, other = other, this
        return this / other if other else None
