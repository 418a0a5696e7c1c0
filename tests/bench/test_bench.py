"""What `make bench` prints: the savings, and the speed beside a plain directory of the same disk."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from bench import report
from bench.compare import PLAIN, compare
from bench.jobs import all_jobs, can_drop_caches
from bench.savings import CASES, Size, measure
from mount.mounted import Mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from bench.conftest import Options, Results

pytestmark = [pytest.mark.bench, pytest.mark.timeout(0)]


@contextlib.contextmanager
def mounted(folder: Path, mode: str) -> Iterator[Mounted]:
    one = Mounted(folder / mode, folder / f"{mode}.store", mode)
    try:
        one.start()
        yield one
        one.stop()
    finally:
        one.clear()


def test_savings(options: Options, console: Console, results: Results, work: Path) -> None:
    size = Size(options.size_bytes, options.entries // 2)
    mode = options.modes[0]
    console.print("\n[bold]Savings[/]: ratio = logical / allocated bytes")
    with mounted(work, mode) as mount:
        for case in CASES:
            saving = measure(case, mount.path, size, mount.status)
            results.savings.append(saving)
            console.print(f"{case.name}: {saving.ratio:.3f}", highlight=False)
    rank_mib = options.size_bytes >> 20
    console.print(
        report.savings_table(results.savings, f"\nsavings, {rank_mib} MiB a rank, {mode}")
    )


def test_speed(options: Options, console: Console, results: Results, work: Path) -> None:
    console.print("\n[bold]Speed[/]: medians, beside a plain directory of the same disk")
    if not can_drop_caches():
        console.print("no permission to drop the kernel's caches: no cold figures")
    with contextlib.ExitStack() as stack:
        targets = {PLAIN: work / PLAIN}
        targets[PLAIN].mkdir()
        for mode in options.modes:
            targets[mode] = stack.enter_context(mounted(work, mode)).path
        lines = compare(
            all_jobs(size_bytes=options.size_bytes, entries=options.entries),
            targets,
            options.rounds,
            lambda line: console.print(report.line_text(line), highlight=False),
        )
    results.lines += lines
    console.print(report.speed_table(lines, f"\nmedians of {options.rounds} rounds"))
