"""Runs jobs on several directories in turns and collects what they measure."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dedupfs.bench.figures import Line
from dedupfs.bench.targets import BenchError, check_room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dedupfs.bench.job import Job
    from dedupfs.bench.targets import Target


@dataclass(frozen=True, slots=True)
class Step:
    """What happens next: in all there are `total` steps, `done` are behind."""

    job: str
    target: str
    doing: str
    done: int
    total: int


@dataclass(slots=True)
class Observer:
    """Whom to tell: each step before it, a job's lines after it, why a job was left out."""

    step: Callable[[Step], None] = lambda _step: None
    lines: Callable[[Sequence[Line]], None] = lambda _lines: None
    skipped: Callable[[str, str], None] = lambda _job, _why: None


def compare(
    jobs: Sequence[Job], targets: Sequence[Target], rounds: int, observer: Observer
) -> list[Line]:
    """Run each job `rounds` times on every target, each round beginning with another one.

    Raises BenchError when there is no room, or when a directory fails a job.
    """
    possible = _possible(jobs, observer)
    _check_room(possible, targets)
    total = len(possible) * len(targets) * (rounds + 1)
    done = 0
    collected: list[Line] = []
    for job in possible:

        def tell(target: Target, doing: str, *, name: str = job.name) -> None:
            nonlocal done
            observer.step(Step(name, target.name, doing, done, total))
            done += 1

        for target in targets:
            tell(target, "preparing")
            with _failures(job, target):
                job.setup(target)
        lines = [Line(job.name, figure) for figure in job.figures()]
        for number in range(rounds):
            for target in _turn(targets, number):
                tell(target, f"round {number + 1}")
                _round(job, target, lines)
        lines = [line for line in lines if line.values]
        observer.lines(lines)
        collected += lines
    return collected


def _turn(targets: Sequence[Target], number: int) -> list[Target]:
    first = number % len(targets)
    return [*targets[first:], *targets[:first]]


def _possible(jobs: Sequence[Job], observer: Observer) -> list[Job]:
    possible = []
    for job in jobs:
        why = job.skipped()
        if why is None:
            possible.append(job)
        else:
            observer.skipped(job.name, why)
    return possible


def _check_room(jobs: Sequence[Job], targets: Sequence[Target]) -> None:
    needs = [job.need() for job in jobs]
    check_room(
        targets,
        kept_bytes=sum(need.kept_bytes for need in needs),
        run_bytes=max((need.run_bytes for need in needs), default=0),
        files=sum(need.files for need in needs),
    )


def _round(job: Job, target: Target, lines: Sequence[Line]) -> None:
    with _failures(job, target):
        target.settle()
        gc.collect()
        gc.disable()  # no pause of ours in the measured time
        try:
            values = job.run(target)
        finally:
            gc.enable()
    for line in lines:
        if line.figure.key in values:
            line.values.setdefault(target.name, []).append(values[line.figure.key])


@contextlib.contextmanager
def _failures(job: Job, target: Target) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(f"{target.path}: the job {job.name} failed: {error.strerror}") from None
