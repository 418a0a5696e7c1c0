"""Options of `make bench`, given as `make bench ARGS="--rounds 5 --json figures.json"`."""

from __future__ import annotations

import faulthandler
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from bench.sections import Bench, Options
from dedupfs.bench import chart, report
from dedupfs.bench.job import Settings
from dedupfs.bench.system import can_drop_caches
from dedupfs.bench.targets import Place
from dedupfs.core.quantities import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--rounds", type=int, default=3, help="rounds of each job (default 3)")
    group.addoption("--size", default="256M", help="size of large files (default 256M)")
    group.addoption("--entries", type=int, default=10_000, help="files of the largest cache")
    group.addoption("--modes", default="passthrough,writeback", help="--io modes, comma separated")
    group.addoption(
        "--peer",
        metavar="NAME=DIR",
        action="append",
        default=[],
        help="another directory to measure, such as a mount of another file system",
    )
    group.addoption("--jobs", default="", help="names of jobs, comma separated (default all)")
    group.addoption(
        "--sections", default="", help="savings, speed, eviction, recovery (default all)"
    )
    group.addoption("--dir", type=Path, default=None, help="where to work (default .bench)")
    group.addoption("--json", type=Path, default=None, help="write all figures to this file")
    group.addoption("--chart", type=Path, default=None, help="draw a chart, .svg or .png")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _peer(text: str) -> Place:
    name, _, path = text.partition("=")
    return Place(name, Path(path))


@pytest.fixture
def no_stack_dumps() -> None:
    """A bench may take longer than the time after which pytest shows where a test hangs."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    given = pytestconfig.getoption
    if given("--chart"):
        chart.check(given("--chart"))
    return Options(
        settings=Settings(
            size_bytes=parse_size(given("--size")),
            ranks=4,
            entries=given("--entries"),
            cold=can_drop_caches(),
        ),
        rounds=given("--rounds"),
        modes=_names(given("--modes")),
        peers=[_peer(text) for text in given("--peer")],
        jobs=_names(given("--jobs")),
        sections=_names(given("--sections")),
        json=given("--json"),
        chart=given("--chart"),
    )


@pytest.fixture(scope="session")
def document(options: Options) -> Iterator[dict[str, object]]:
    """Collects the figures; at the end they are in the JSON file."""
    found: dict[str, object] = {}
    yield found
    if options.json:
        report.write(options.json, found)
        print(f"figures are in {options.json}")


@pytest.fixture
def work(pytestconfig: pytest.Config) -> Iterator[Path]:
    """A new folder on the disk that is measured, removed afterwards."""
    parent = pytestconfig.getoption("--dir") or REPOSITORY / ".bench"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        yield Path(folder)


@pytest.fixture
def bench(options: Options, document: dict[str, object], work: Path) -> Bench:
    console = Console(width=None if Console().is_terminal else 150)
    return Bench(options, console, work, document)
