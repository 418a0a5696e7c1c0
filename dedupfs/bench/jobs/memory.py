"""What a daemon keeps in memory, after everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dedupfs.bench.figures import Figure, Kind
from dedupfs.bench.job import Need
from dedupfs.bench.writing import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dedupfs.bench.targets import Target


@dataclass(frozen=True)
class Memory:
    """Looks at the daemons of dedupfs mounts; other directories have no such figure."""

    name: str = "memory"
    about: str = "resident memory of the daemon of a dedupfs mount, after the other jobs"

    def figures(self) -> Sequence[Figure]:
        return [Figure("end", "memory of the daemon, at the end", "MiB", Kind.SPACE)]

    def need(self) -> Need:
        return Need()

    def skipped(self) -> str | None:
        return None

    def setup(self, target: Target) -> None:
        del target

    def run(self, target: Target) -> Mapping[str, float]:
        resident = target.daemon_bytes()
        return {} if resident is None else {"end": resident / MIB}
