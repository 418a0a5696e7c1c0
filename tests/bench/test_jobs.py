"""The jobs of a bench run on any directory, at any size, and what they find is told rightly.

What is lost if one fails: a bench stops half way, leaves files behind, or tells wrong ratios.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from bench import report as make_bench
from bench.savings import CASES, Case, Saving, Size
from dedupfs.bench import chart, system, targets
from dedupfs.bench.figures import Figure, Kind, Line
from dedupfs.bench.job import Job, Need, Settings
from dedupfs.bench.jobs import all_jobs
from dedupfs.bench.report import Report
from dedupfs.bench.runner import Observer, compare
from dedupfs.bench.targets import BenchError, Place, Target, workspaces
from dedupfs.cli.bench_table import line_text, number, tables

MIB = 1 << 20
WARM = Settings(size_bytes=2 * MIB, ranks=2, entries=20, cold=False)
COLD = replace(WARM, cold=True)
JOBS = all_jobs(WARM)


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(Place("here", tmp_path), tmp_path)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_job_finds_what_it_says_and_leaves_only_what_its_setup_made(
    target: Target, job: Job
) -> None:
    job.setup(target)
    made = sorted(target.work.rglob("*"))
    values = job.run(target)
    assert sorted(target.work.rglob("*")) == made
    of_a_daemon = {"memory", "end", "cost"}  # of this one there is none; nor was the other job run
    assert set(values) - of_a_daemon == {figure.key for figure in job.figures()} - of_a_daemon
    assert all(value > 0 for value in values.values())


@pytest.mark.skipif(not system.can_drop_caches(), reason="needs root")
@pytest.mark.parametrize("name", ["read", "mmap-ranks", "small", "metadata", "hits-20"])
def test_a_job_empties_the_caches_before_it_measures_cold(
    target: Target, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[int] = []
    for module in [m for key, m in sys.modules.items() if key.startswith("dedupfs.bench.jobs.")]:
        if hasattr(module, "drop_caches"):  # the real one would slow down the whole machine
            monkeypatch.setattr(module, "drop_caches", lambda: dropped.append(1))
    job = next(job for job in all_jobs(COLD) if job.name == name)
    job.setup(target)
    values = job.run(target)
    assert dropped
    assert {figure.key for figure in job.figures()} - set(values) <= {"memory", "cost"}


def test_ranks_write_the_same_bytes_but_for_the_page_that_is_their_own(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[bytes]] = {}
    for job in (j for j in JOBS if j.name in {"ranks", "ranks-page"}):
        written = seen.setdefault(job.name, [])
        with monkeypatch.context() as patched:
            patched.setattr(
                "shutil.rmtree",
                lambda top, found=written: found.extend(
                    (top / f"rank{n}" / "data").read_bytes() for n in range(2)
                ),
            )
            job.run(target)
        (target.work / "ranks").rename(target.work / f"done-{job.name}")
    same, page = seen["ranks"], seen["ranks-page"]
    assert same[0] == same[1]
    assert page[0][:4096] != page[1][:4096]
    assert page[0][4096:] == page[1][4096:]
    assert len(same[0]) == len(page[0]) == 2 * MIB
    assert page[0][4096:] != same[0][4096:], "a round must not find the bytes of the one before"


def test_the_disk_peak_of_a_plain_directory_is_all_that_the_ranks_wrote(target: Target) -> None:
    values = JOBS[0].run(target)
    assert 4 <= values["peak"] < 4.5
    assert values["sync_s"] > values["close_s"]


def test_a_rank_that_cannot_write_ends_the_bench_with_one_line(target: Target) -> None:
    (target.work / "ranks").mkdir()
    with pytest.raises(BenchError, match="job ranks failed: File exists"):
        compare(JOBS[:1], [target], 1, Observer())


class Counting:
    """Returns other figures for each directory, and writes down when it was called."""

    name = "counting"
    about = "counts"

    def __init__(self) -> None:
        self.order: list[str] = []

    def figures(self) -> list[Figure]:
        return [
            Figure("rate", "things", "things/s", Kind.RATE, headline=True),
            Figure("seconds", "time", "s", Kind.SECONDS, headline=True),
            Figure("space", "place", "MiB", Kind.SPACE, headline=True),
        ]

    def need(self) -> Need:
        return Need()

    def skipped(self) -> str | None:
        return None

    def setup(self, target: Target) -> None:
        self.order.append(f"setup {target.name}")

    def run(self, target: Target) -> dict[str, float]:
        self.order.append(target.name)
        if target.name == "plain":
            return {"rate": 4.0, "seconds": 1.0, "space": 400.0}
        return {"rate": 3.0, "seconds": 2.0, "space": 100.0}


def counted(tmp_path: Path) -> tuple[Counting, Report]:
    places = [Place(name, tmp_path / name) for name in ("plain", "other")]
    for place in places:
        place.path.mkdir()
    job = Counting()
    with workspaces(places) as made:
        found = Report(WARM, 3, [one.describe() for one in made], "plain")
        found.lines = compare([job], made, 3, Observer())
        assert all(one.work.is_dir() for one in made)
    assert not [path for path in tmp_path.rglob("*") if path.parent != tmp_path]
    return job, found


def test_directories_take_turns_and_ratios_say_how_many_times_as_fast(tmp_path: Path) -> None:
    job, found = counted(tmp_path)
    turns = ["plain", "other", "other", "plain", "plain", "other"]
    assert job.order == ["setup plain", "setup other", *turns]
    assert [line.ratio("other", "plain") for line in found.lines] == [0.75, 0.5, 0.25]
    assert line_text(found, found.lines[0]).endswith(
        "plain 4.000 things/s, other 3.000 things/s (0.75x)"
    )
    assert [table.row_count for table in tables(found)] == [2, 1]


def test_the_document_holds_every_value_and_names_what_ratios_are_to(tmp_path: Path) -> None:
    document = counted(tmp_path)[1].document()
    assert document["format"] == 1
    assert document["baseline"] == "plain"
    assert document["results"][1] == {
        "job": "counting",
        "figure": "seconds",
        "label": "time",
        "unit": "s",
        "better": "less",
        "values": {"plain": [1.0] * 3, "other": [2.0] * 3},
        "medians": {"plain": 1.0, "other": 2.0},
        "ratios": {"plain": 1.0, "other": 0.5},
    }


def test_a_chart_is_svg_that_says_every_headline(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = counted(tmp_path)[1]
    path = tmp_path / "chart.svg"
    chart.draw(found, path)
    text = " ".join(ET.parse(path).getroot().itertext())  # noqa: S314 - our own file
    for part in ("things", "time", "place", "other", "0.75x", "0.50x", "100 MiB", "400 MiB"):
        assert part in text
    first = path.read_bytes()
    chart.draw(found, path)
    assert path.read_bytes() == first, "a chart that did not change must not look changed to git"


def test_without_matplotlib_a_chart_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match=re.escape("pip install 'dedupfs[report]'")):
        chart.check(Path("a.svg"))


def test_room_is_looked_for_before_the_work(target: Target) -> None:
    room = os.statvfs(target.work)
    free = room.f_bavail * room.f_frsize
    targets.check_room([target], kept_bytes=free // 3, run_bytes=0, files=1)
    with pytest.raises(BenchError, match="are needed: take a smaller --size"):
        # Two on one disk: what both keep adds up.
        targets.check_room([target] * 4, kept_bytes=free // 3, run_bytes=0, files=1)
    with pytest.raises(BenchError, match="take fewer --entries"):
        targets.check_room([target], kept_bytes=0, run_bytes=0, files=room.f_favail + 10**6)


def test_what_a_job_lacks_is_told_and_the_others_run(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    told: dict[str, str] = {}
    lines = compare(
        [job for job in JOBS if job.name in {"arrow", "write-new"}],
        [target],
        1,
        Observer(skipped=told.__setitem__),
    )
    assert told == {"arrow": "pyarrow is not installed (pip install pyarrow)"}
    assert {line.job for line in lines} == {"write-new"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.188, "0.188"), (25.4, "25"), (99_999.0, "99,999"), (930_600.0, "931k"), (12e6, "12,000k")],
)
def test_a_figure_is_short_and_keeps_what_tells_it_apart(value: float, text: str) -> None:
    assert number(value) == text


def test_the_readme_table_marks_what_is_missed() -> None:
    figure = Figure("close", "new 1 MiB writes, to close", "MiB/s", Kind.RATE)
    line = Line("write-new", figure, {"plain": [1000.0], "a": [450.0], "b": [440.0]})
    names = [{"name": name} for name in ("plain", "a", "b")]
    rows = make_bench.markdown(Report(WARM, 1, names, "plain", [line])).splitlines()
    assert rows[2] == (
        "| new 1 MiB writes, to close | >= 0.45x | 1,000 MiB/s | 450 MiB/s, 0.45x "
        "| 440 MiB/s, 0.44x (missed) |"
    )


def test_every_target_names_a_figure() -> None:
    known = {(job.name, figure.key) for job in all_jobs(COLD) for figure in job.figures()}
    every = {*make_bench.LEAST_RATIOS, *make_bench.LEAST_RATES, *make_bench.MOST_FILES}
    assert every <= known


def test_the_savings_are_in_the_document() -> None:
    document = make_bench.savings_document([Saving(CASES[0], 4_000_000, 1_000_000)])
    assert document[0]["ratio"] == 4.0


def test_a_rank_ends_when_the_bench_is_killed(tmp_path: Path) -> None:
    content = os.memfd_create("content")
    os.truncate(content, MIB)
    rank = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "dedupfs.bench.rank",
            tmp_path / "x",
            f"{content}",
            f"{MIB}",
            "0",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[content],
    )
    os.close(content)
    rank.communicate(timeout=20)  # closes its input
    assert rank.returncode == 0
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_input_is_what_its_name_says(tmp_path: Path, case: Case) -> None:
    case.make(tmp_path, Size(rank_bytes=9 * MIB, small_files=30))
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(sizes) >= (4 * 30 * 4096 if case.name.startswith("4 folders") else 9 * MIB)
