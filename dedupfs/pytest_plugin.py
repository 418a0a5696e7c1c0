"""Fixtures for pytest: `dedupfs_mount`, a mount of its own for a test. Loaded by its entry point.

Imports nothing but pytest until the fixture is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dedupfs.api import Mount

_DEVICE = Path("/dev/fuse")


@pytest.fixture
def dedupfs_options() -> dict[str, str | int | float | bool]:
    """Return the options of `dedupfs_mount`; define it anew to change them: `{"io": "writeback"}`."""
    return {}


@pytest.fixture
def dedupfs_mount(
    tmp_path: Path, dedupfs_options: dict[str, str | int | float | bool]
) -> Iterator[Mount]:
    """Yield an empty mount in the test's `tmp_path`; skips where there is no FUSE."""
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        pytest.skip(f"{_DEVICE} is missing or not permitted")
    from dedupfs.api import mounted  # noqa: PLC0415 - sessions that do not use it pay nothing

    store = tmp_path / "dedupfs.store"
    with mounted(tmp_path / "dedupfs", store=store, **dedupfs_options) as mount:  # type: ignore[arg-type]
        yield mount
