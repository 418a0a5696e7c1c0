"""The jobs of the bench run on any directory, at any size.

What is lost if one fails: `make bench` stops half way.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from bench import report
from bench.compare import PLAIN, Line, compare
from bench.jobs import MIB, Job, all_jobs
from bench.savings import CASES, Case, Saving, Size

if TYPE_CHECKING:
    from pathlib import Path

JOBS = [job for job in all_jobs(size_bytes=2 * MIB, entries=20) if "cold" not in job.name]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_leaves_only_what_its_setup_made(tmp_path: Path, job: Job) -> None:
    job.setup(tmp_path)
    made = sorted(tmp_path.rglob("*"))
    assert job.run(tmp_path) > 0
    assert sorted(tmp_path.rglob("*")) == made


def test_targets_take_turns_and_ratios_are_to_the_plain_one(tmp_path: Path) -> None:
    order: list[str] = []

    class Counting:
        name = "sequential read, warm"
        unit = "things/s"

        def setup(self, folder: Path) -> None:
            order.append(f"setup {folder.name}")

        def run(self, folder: Path) -> float:
            order.append(folder.name)
            return {PLAIN: 4.0, "a": 3.0}[folder.name]

    targets = {name: tmp_path / name for name in (PLAIN, "a")}
    shown: list[Line] = []
    (line,) = compare([Counting()], targets, 3, shown.append)
    assert order == ["setup plain", "setup a", "plain", "a", "a", "plain", "plain", "a"]
    assert shown == [line]
    assert line.ratio("a") == 0.75
    assert report.wanted(line, "a") == (">= 0.95x", "[red]no[/]")


def test_the_tables_and_the_document_hold_every_figure() -> None:
    line = Line("create, write and close of 4 KiB files", "files/s", {PLAIN: [9.0], "a": [1501.0]})
    saving = Saving(CASES[0], 4_000_000, 1_000_000)
    out = Console(file=io.StringIO(), width=150)
    out.print(report.savings_table([saving], "savings"), report.speed_table([line], "speed"))
    text = out.file.getvalue() if isinstance(out.file, io.StringIO) else ""
    assert "4.000" in text
    assert "1,501" in text
    assert "yes" in text
    document = report.document([saving], [line])
    assert document["savings"] == [
        {
            "input": "4 identical ranks",
            "logical_bytes": 4_000_000,
            "allocated_bytes": 1_000_000,
            "ratio": 4.0,
            "wanted": 3.98,
        }
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_input_is_what_its_name_says(tmp_path: Path, case: Case) -> None:
    case.make(tmp_path, Size(rank_bytes=9 * MIB, small_files=30))
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(sizes) >= (4 * 30 * 4096 if case.name.startswith("4 folders") else 9 * MIB)
