"""Stores written by earlier versions open and read for ever."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from formats.make_golden import CONTENT, YOUNGER
from store.broken import check, contents, end, rebuild
from vfs.world import World

ARCHIVES = sorted(Path(__file__).parent.glob("store-*.tar.gz"))
WANTED = CONTENT | {b"d/hard": CONTENT[b"small"]}


@pytest.fixture(params=ARCHIVES, ids=lambda archive: archive.name)
def unpacked(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_there_is_one_of_each_version() -> None:
    assert [archive.name for archive in ARCHIVES] == ["store-1.tar.gz"]


def test_a_closed_store_opens(unpacked: Path) -> None:
    path = unpacked / "closed"
    assert check(path).problems == []
    assert contents(path) == WANTED
    world = World(path)
    assert world.vfs.readlink(world.look(b"link").ino) == b"d/e/holes"
    assert world.vfs.getxattr(world.look(b"big").ino, b"user.name") == b"value"
    before = world.store.index.counters.unique_bytes
    world.create(b"again", CONTENT[b"big"])
    assert world.store.index.counters.unique_bytes == before, "chunks are cut as they were"
    end(world)
    assert check(path).problems == []


def test_a_killed_store_opens(unpacked: Path) -> None:
    path = unpacked / "killed"
    assert check(path).problems == []
    assert contents(path) == WANTED | YOUNGER
    assert check(path).problems == []


def test_the_copy_of_its_index_is_read(unpacked: Path) -> None:
    path = unpacked / "closed"
    (path / "index" / "data.mdb").unlink()
    assert rebuild(path).left == 0
    assert contents(path) == WANTED
