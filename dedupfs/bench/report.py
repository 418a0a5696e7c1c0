"""What a bench found, for other programs: one JSON document."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from dedupfs.bench import system
from dedupfs.bench.figures import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.bench.figures import Line
    from dedupfs.bench.job import Settings

FORMAT: Final = 1  # goes up when a reader of the document must change


@dataclass(slots=True)
class Report:
    """Everything measured in one run. `baseline`: the name of the target ratios are to."""

    settings: Settings
    rounds: int
    targets: list[dict[str, object]]
    baseline: str
    lines: list[Line] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)  # folders that were left behind, as asked

    @property
    def names(self) -> list[str]:
        """The targets' names."""
        return [str(target["name"]) for target in self.targets]

    def document(self) -> dict[str, object]:
        """Return all of it; ratios of seconds are of speeds, so more is better but for space."""
        return {
            "format": FORMAT,
            "machine": system.machine(),
            "settings": asdict(self.settings) | {"rounds": self.rounds},
            "targets": self.targets,
            "baseline": self.baseline,
            "skipped": self.skipped,
            "results": [self._result(line) for line in self.lines],
        }

    def _result(self, line: Line) -> dict[str, object]:
        figure = line.figure
        measured = [name for name in self.names if line.values.get(name)]
        return {
            "job": line.job,
            "figure": figure.key,
            "label": figure.label,
            "unit": figure.unit,
            "better": "more" if figure.kind is Kind.RATE else "less",
            "values": {name: line.values[name] for name in measured},
            "medians": {name: line.median(name) for name in measured},
            "ratios": {
                name: ratio
                for name in measured
                if (ratio := line.ratio(name, self.baseline)) is not None
            },
        }


def text(document: dict[str, object]) -> str:
    """Return the document as it is written to a file."""
    return json.dumps(document, indent=2) + "\n"


def write(path: Path, document: dict[str, object]) -> None:
    """Write the document; raises OSError."""
    path.write_text(text(document))
