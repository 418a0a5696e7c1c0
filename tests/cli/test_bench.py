"""`dedupfs bench`: one line for each error, nothing left behind however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mount.mounted import command_environment, dedupfs, one_line

if TYPE_CHECKING:
    from pathlib import Path

SMALL = ("--size", "1M", "--entries", "10", "--rounds", "1", "--jobs", "ranks,write-new")


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ([], 2, "no directory given"),
        (["missing"], 1, "missing does not exist"),
        (["file"], 1, "file is no directory"),
        (["a", "./a"], 1, "a is given twice"),
        (["/proc"], 1, "cannot write to /proc"),
        (["a", "--rounds", "0"], 2, "--rounds 0: want at least 1"),
        (["a", "--size", "big"], 2, "--size big: want at least 1M"),
        (["a", "--ranks", "0"], 2, "--ranks 0: want 1 to 64"),
        (["a", "--entries", "0"], 2, "--entries 0: want at least 1"),
        (["a", "--jobs", "ranks,dance"], 2, "there is no 'dance', but ranks, ranks-page,"),
        (["a", "--size", "1000T"], 1, "take a smaller --size"),
        (["a", "--json", "no/where"], 2, "there is no folder no"),
        (["a", "b", "--chart", "c.gif"], 1, "a chart is a .svg or .png file"),
    ],
)
def test_a_wrong_argument_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    done = dedupfs("bench", *arguments)
    assert part in one_line(done.stderr)
    assert done.returncode == code
    assert done.stdout == ""
    assert not [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]


def test_json_is_all_of_standard_output_and_the_directories_are_as_before(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "kept").write_text("mine")
    done = dedupfs("bench", f"first={tmp_path / 'a'}", tmp_path / "b", *SMALL, "--json", "-")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [target["name"] for target in document["targets"]] == ["first", "b"]
    assert document["baseline"] == "first"
    assert {result["job"] for result in document["results"]} == {"ranks", "ranks-page", "write-new"}
    assert "new 1 MiB writes, to close: first" in done.stderr
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_tables_and_a_chart_and_the_baseline_that_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    path = tmp_path / "chart.svg"
    arguments = [tmp_path / "a", "--baseline", tmp_path / "b", "--chart", path, "--quiet"]
    done = dedupfs("bench", *arguments, *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "times as fast as b" in done.stdout
    assert "4 ranks write the same 1 MiB, disk peak" in done.stdout
    assert path.read_text().startswith("<?xml")


def test_the_list_of_jobs_needs_no_directory() -> None:
    done = dedupfs("bench", "--list")
    assert done.returncode == 0
    assert "write-duplicate" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_bench_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    bench = subprocess.Popen(
        [sys.executable, "-P", "-m", "dedupfs.cli", "bench", tmp_path, "--jobs", "hits"],
        env=command_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 20
    while not [*tmp_path.glob(".dedupfs-bench-*/cache-*/*/*")] and time.monotonic() < end:
        time.sleep(0.02)
    assert [*tmp_path.iterdir()], "it was ended while it worked"
    bench.send_signal(number)
    told = bench.communicate(timeout=20)[1]
    assert bench.returncode == 128 + number
    assert b"Traceback" not in told
    assert [*tmp_path.iterdir()] == []
