"""Runs jobs on several directories in turns, and keeps the medians and their ratios."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from bench.jobs import Job

PLAIN: Final = "plain"


@dataclass
class Line:
    """The rates of one job by directory, one for each round."""

    name: str
    unit: str
    rates: dict[str, list[float]] = field(default_factory=dict)

    def median(self, target: str) -> float:
        """The middle rate."""
        return statistics.median(self.rates[target])

    def ratio(self, target: str) -> float:
        """How many times the plain directory's median rate this one has."""
        return self.median(target) / self.median(PLAIN)


def compare(
    jobs: Sequence[Job],
    targets: Mapping[str, Path],
    rounds: int,
    show: Callable[[Line], None],
) -> list[Line]:
    """Run each job `rounds` times on every target, each round beginning with another one."""
    lines = []
    for job in jobs:
        for folder in targets.values():
            job.setup(folder)
        line = Line(job.name, job.unit, {name: [] for name in targets})
        names = list(targets)
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                line.rates[name].append(job.run(targets[name]))
        show(line)
        lines.append(line)
    return lines
