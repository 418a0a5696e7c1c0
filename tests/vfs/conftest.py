from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vfs.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An empty file system; closed at the end, its store checked."""
    made = World(tmp_path / "store")
    yield made
    made.close()
