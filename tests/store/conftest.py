from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dedupfs.core.types import Ino
from dedupfs.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from store.fixtures import Read, Write


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def write(store: Store) -> Write:

    def write(ino: int, data: bytes, step: int = 1 << 20, offset: int = 0) -> None:
        writer = store.writer(Ino(ino), lambda _txn, _delta: None)
        for at in range(0, len(data), step):
            writer.write(offset + at, data[at : at + step])
        writer.close()

    return write


@pytest.fixture
def read(store: Store) -> Read:

    def read(ino: int, size: int) -> bytes:
        return bytes(store.read(Ino(ino), 0, size).run())

    return read
