"""Crash tests need root, FUSE, loop devices, strace; each is skipped without, but never in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash import scale

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
FIGURES = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.crash)
            item.add_marker(pytest.mark.timeout(7200 if scale.IS_LONG else 400))


def need(*programs: str, device: str = "/dev/null", root: bool = False) -> None:
    """Skip the test where something it needs is not there; in CI that is a failure instead."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not os.path.exists(device):
        missing.append(device)
    if root and os.geteuid():
        missing.append("root")
    if missing and not os.environ.get("CI"):
        pytest.skip(f"no {', '.join(missing)}")
    assert not missing, missing


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that keeps a line for the end of the test run."""
    request.config.stash.setdefault(FIGURES, [])
    return request.config.stash[FIGURES].append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section(f"crash tests, DEDUPFS_CRASH_SEED={scale.SEED}")
        for line in lines:
            terminalreporter.line(line)
