"""The jobs, in the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dedupfs.bench.jobs.arrow import Arrow
from dedupfs.bench.jobs.mapped import MappedRead
from dedupfs.bench.jobs.memory import Memory
from dedupfs.bench.jobs.names import Hits, Metadata, SmallFiles
from dedupfs.bench.jobs.ranks import Ranks
from dedupfs.bench.jobs.sequential import SequentialRead, SequentialWrite, Tensors

if TYPE_CHECKING:
    from dedupfs.bench.job import Job, Settings

FEW: Final = 100
MANY: Final = 10_000


def all_jobs(settings: Settings) -> list[Job]:
    """Return every job. Those with more files come later: a hit among 100 is one in a small store."""
    few = Hits(settings, min(FEW, settings.entries))
    counts = sorted({min(MANY, settings.entries), settings.entries} - {few.count})
    return [
        Ranks(settings, own_page=False),
        Ranks(settings, own_page=True),
        SequentialWrite(settings, duplicate=False),
        SequentialWrite(settings, duplicate=True),
        Arrow(settings),
        Tensors(settings),
        SequentialRead(settings),
        MappedRead(settings, files=1),
        MappedRead(settings, files=settings.ranks),
        few,
        *(Hits(settings, count, few=few) for count in counts),
        SmallFiles(settings),
        Metadata(settings),
        Memory(),
    ]
