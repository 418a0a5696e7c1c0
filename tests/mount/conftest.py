"""Fixtures for tests on a real mount: `mount`, `mount_passthrough`, `plain`, `new_mount`.

A module's mount takes another mode with
`@pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True)`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mount.mounted import Mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, and skip it where there is no FUSE (never in CI)."""
    missing = not Path("/dev/fuse").exists() and not os.environ.get("CI")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.mount)
            if missing:
                item.add_marker(pytest.mark.skip(reason="no /dev/fuse"))


@contextlib.contextmanager
def mounted(base: Path, io: str, *arguments: str) -> Iterator[Mounted]:
    """Mount under `base` for the block; at its end the daemon must be alive and then gone."""
    one = Mounted(base / "mnt", base / "store", io, list(arguments))
    try:
        one.start()
        yield one
        one.stop()
    finally:
        one.clear()


@pytest.fixture(scope="module")
def mount(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mounted]:
    """One mount for the module; `request.param` is the --io mode."""
    with mounted(tmp_path_factory.mktemp("mount"), getattr(request, "param", "writeback")) as one:
        yield one


@pytest.fixture(scope="module")
def mount_passthrough(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for the module, without the kernel's writeback cache."""
    with mounted(tmp_path_factory.mktemp("mount-passthrough"), "passthrough") as one:
        yield one


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of the disk that also holds the stores, to compare with."""
    return tmp_path_factory.mktemp("plain")


@pytest.fixture
def new_mount(tmp_path: Path) -> Iterator[Callable[..., Mounted]]:
    """Return a function that mounts anew for this test: `new_mount(*arguments, io="writeback")`."""
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, io: str = "writeback") -> Mounted:
            base = tmp_path / f"m{next(numbers)}"
            base.mkdir()
            return stack.enter_context(mounted(base, io, *arguments))

        yield start
