"""The memory that the daemon shows must not grow with the index it has read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.format import Inode
from dedupfs.core.types import Ino
from dedupfs.store import namespace, resident
from dedupfs.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 60_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "store")
    with made.index.write() as txn:
        for _ in range(COUNT):
            namespace.add_inode(txn, Inode(0o100644, *[1] * 10, target=os.urandom(300)))
    made.index.fold()
    yield made
    with made.index.write() as txn:
        for ino in range(2, COUNT + 2):
            namespace.remove_inode(txn, Ino(ino), namespace.get_inode(txn, Ino(ino)))
    made.close()


def mapped_mib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) >> 10


def read_all(store: Store) -> list[Inode]:
    with store.index.read() as txn:
        return [namespace.get_inode(txn, Ino(ino)) for ino in range(2, COUNT + 2)]


def test_pages_of_the_index_are_let_go_and_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_RESIDENT_MAX_BYTES", 1)
    monkeypatch.setattr(resident, "_SHARED_MIN_BYTES", 1)
    before = read_all(store)
    grown = mapped_mib()
    with store.index.write() as txn:  # changed and not folded: in memory of its own
        changed = namespace.get_inode(txn, Ino(2))
        changed.size = 77
        namespace.put_inode(txn, Ino(2), changed)
        assert store.trim_memory()
    assert grown - mapped_mib() > COUNT * 380 >> 20
    assert read_all(store) == [changed, *before[1:]]
    store.index.fold()
    assert read_all(store) == [changed, *before[1:]]


def test_a_small_process_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_RESIDENT_MAX_BYTES", 1 << 50)
    assert not store.trim_memory()


def test_freed_memory_goes_back_to_the_system(tmp_path: Path) -> None:
    # In a process of its own: what ran before here decides where malloc puts things.
    done = subprocess.run(
        [sys.executable, "-c", FREEING, tmp_path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) > 50


FREEING = """
import pathlib, sys
from dedupfs.store import resident

def anonymous_mib():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) >> 10

resident._RESIDENT_MAX_BYTES = 1
pieces, between = [], []
for number in range(1600):  # too small for maps of their own
    pieces.append(bytes(100_000 + number))
    between.append(bytes(1000))  # keeps the heap from being cut at its end
del pieces
before = anonymous_mib()
resident.trim(pathlib.Path(sys.argv[1]))
print(before - anonymous_mib())
"""
