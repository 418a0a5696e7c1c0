"""Options of `make bench`, given as `make bench ARGS="--rounds 5 --json figures.json"`."""

from __future__ import annotations

import faulthandler
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from bench import report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.compare import Line
    from bench.savings import Saving

REPOSITORY = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--rounds", type=int, default=3, help="rounds of each job (default 3)")
    group.addoption("--size-mib", type=int, default=256, help="size of large files (default 256)")
    group.addoption("--entries", type=int, default=10_000, help="files of a large folder")
    group.addoption("--modes", default="writeback,passthrough", help="--io modes, comma separated")
    group.addoption("--dir", type=Path, default=None, help="where to work (default .bench)")
    group.addoption("--json", type=Path, default=None, help="write all figures to this file")


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    rounds: int
    size_bytes: int
    entries: int
    modes: list[str]
    json: Path | None


@dataclass
class Results:
    """Everything measured in this run."""

    savings: list[Saving]
    lines: list[Line]


@pytest.fixture(autouse=True)
def no_stack_dumps() -> None:
    """A bench may take longer than the time after which pytest shows where a test hangs."""
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    return Options(
        rounds=pytestconfig.getoption("--rounds"),
        size_bytes=pytestconfig.getoption("--size-mib") << 20,
        entries=pytestconfig.getoption("--entries"),
        modes=pytestconfig.getoption("--modes").split(","),
        json=pytestconfig.getoption("--json"),
    )


@pytest.fixture(scope="session")
def console() -> Console:
    return Console(width=None if Console().is_terminal else 150)


@pytest.fixture(scope="session")
def results(options: Options, console: Console) -> Iterator[Results]:
    """Collects; at the end everything is in the JSON file."""
    found = Results([], [])
    yield found
    if options.json:
        report.write_json(options.json, report.document(found.savings, found.lines))
        console.print(f"figures are in {options.json}")


@pytest.fixture
def work(pytestconfig: pytest.Config) -> Iterator[Path]:
    """A new folder on the disk that is measured, removed afterwards."""
    parent = pytestconfig.getoption("--dir") or REPOSITORY / ".bench"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as folder:
        yield Path(folder)
