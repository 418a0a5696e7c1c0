from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import Corrupt, StoreError
from dedupfs.core.types import ROOT_INO
from dedupfs.store import backup
from dedupfs.store.store import Store
from store.broken import (
    BIG,
    CONTENT,
    check,
    contents,
    edited,
    end,
    kill,
    kinds,
    make,
    rebuild,
    repair,
)
from vfs.world import World

if TYPE_CHECKING:
    from pathlib import Path

HARD = CONTENT | {b"d/hard": CONTENT[b"small"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    make(made)
    return made


def _empty(path: Path) -> None:
    (path / "index" / "data.mdb").write_bytes(b"")


def _cut(path: Path) -> None:
    os.truncate(path / "index" / "data.mdb", 20_000)


def _garbage(path: Path) -> None:
    file = path / "index" / "data.mdb"
    file.write_bytes(random.Random(1).randbytes(file.stat().st_size))


def _missing(path: Path) -> None:
    (path / "index" / "data.mdb").unlink()


def _no_folder(path: Path) -> None:
    shutil.rmtree(path / "index")


@pytest.mark.parametrize("lose", [_empty, _cut, _garbage, _missing, _no_folder])
def test_a_lost_index_comes_back_from_its_copy(path: Path, lose: object) -> None:
    assert callable(lose)
    lose(path)
    segments = sorted((path / "segments").iterdir())
    with pytest.raises(Corrupt, match="--rebuild"):
        Store.open(path)
    assert sorted((path / "segments").iterdir()) == segments, "a start took content for leftovers"
    assert kinds(check(path)) == {"index"}
    assert repair(path).left == 1
    report = rebuild(path)
    assert (kinds(report), report.left) == ({"index"}, 0)
    assert check(path).problems == []
    assert contents(path) == HARD
    world = World(path)
    assert world.vfs.readlink(world.look(b"link").ino) == b"d/same"
    assert world.vfs.getxattr(world.look(b"big").ino, b"user.name") == b"big"
    end(world)


def test_what_is_stored_is_found_again_by_new_writers(path: Path) -> None:
    _missing(path)
    rebuild(path)
    world = World(path)
    before = world.store.index.counters.unique_bytes
    world.create(b"again", b"a new head" + BIG)
    assert world.store.index.counters.unique_bytes - before < 300_000
    end(world)
    assert contents(path) == HARD | {b"again": b"a new head" + BIG}


def test_the_journal_brings_back_what_is_younger_than_the_copy(path: Path) -> None:
    world = World(path)
    world.create(b"younger", b"z" * 300_000)
    world.vfs.unlink(ROOT_INO, b"shifted")
    kill(world)
    _garbage(path)
    rebuild(path)
    assert check(path).problems == []
    expected = HARD | {b"younger": b"z" * 300_000}
    del expected[b"shifted"]
    assert contents(path) == expected


def test_content_younger_than_the_copy_is_kept_without_its_name(path: Path) -> None:
    world = World(path)
    data = random.Random(9).randbytes(500_000)
    world.create(b"younger", data)
    world.store._checkpoints.fold()
    world.store._checkpoints.fold()
    kill(world)
    _garbage(path)
    report = rebuild(path)
    assert "stray" in kinds(report)
    assert check(path).problems == []
    after = contents(path)
    assert {name: after[name] for name in HARD} == HARD
    kept = [content for name, content in after.items() if name.startswith(b"lost+found/segment-")]
    assert any(content is not None and data in content for content in kept)


def test_content_removed_after_the_copy_is_told_as_lost_not_read_as_zeros(path: Path) -> None:
    shutil.copy(path / "index.backup", path.parent / "copy")
    world = World(path)
    world.vfs.unlink(world.look(b"e", world.look(b"d").ino).ino, b"own")
    end(world)
    shutil.copy(path.parent / "copy", path / "index.backup")
    _garbage(path)
    report = rebuild(path)
    assert kinds(report) >= {"lost-bytes"}
    assert check(path).problems == []
    expected = HARD | {b"lost+found/own": None}
    del expected[b"d/e/own"]
    assert contents(path) == expected


def test_without_a_copy_all_content_is_kept_as_files(path: Path) -> None:
    (path / "index.backup").unlink()
    _garbage(path)
    report = rebuild(path)
    assert kinds(report) == {"index", "stray"}
    assert check(path).problems == []
    after = contents(path)
    assert all(name.startswith(b"lost+found/segment-") for name in after)
    joined = b"".join(content for content in after.values() if content is not None)
    assert BIG in joined
    assert CONTENT[b"small"] in joined


def test_a_damaged_copy_is_passed_over_for_the_one_before(path: Path) -> None:
    world = World(path)
    world.create(b"more", b"more")
    end(world)
    assert (path / "index.backup.old").exists()
    raw = bytearray((path / "index.backup").read_bytes())
    raw[len(raw) // 2] ^= 1
    (path / "index.backup").write_bytes(raw)
    _garbage(path)
    report = rebuild(path)
    assert "copy" in kinds(report)
    assert check(path).problems == []
    after = contents(path)
    assert {name: after[name] for name in HARD} == HARD


def test_an_index_that_can_be_read_is_not_replaced(path: Path) -> None:
    with edited(path) as txn:
        txn.clear("shares")
    with pytest.raises(StoreError, match="use --repair"):
        rebuild(path)


def test_the_old_index_is_kept(path: Path) -> None:
    _garbage(path)
    raw = (path / "index" / "data.mdb").read_bytes()
    rebuild(path)
    assert (path / "index.damaged-1" / "data.mdb").read_bytes() == raw


def test_a_copy_is_made_while_writers_go_on(path: Path) -> None:
    world = World(path)
    assert world.store.begin_backup() is None, "nothing new"
    world.create(b"one", b"1" * 5000)
    world.store.begin_backup()
    world.store.index.fold()
    copy = world.store.begin_backup()
    assert copy is not None
    with world.store.index.snapshot() as txn:
        rows = sum(txn.rows(table) for table in backup.COPIED)
    world.create(b"two", b"2" * 5000)
    copy.write()
    found, problems = backup.newest(path)
    assert problems == []
    assert found is not None
    assert sum(row.table in backup.COPIED for row in backup.rows(found.path)) == rows
    assert not any(row.key.endswith(b"two") for row in backup.rows(found.path))
    end(world)
    assert any(row.key.endswith(b"two") for row in backup.rows(path / "index.backup"))


def test_a_stopped_copy_leaves_the_last_one(path: Path) -> None:
    before = (path / "index.backup").read_bytes()
    world = World(path)
    for number in range(1000):
        world.create(b"%d" % number)
    world.store.index.fold()
    copy = world.store.begin_backup()
    assert copy is not None
    copy.stop()
    copy.write()
    assert (path / "index.backup").read_bytes() == before
    kill(world)


def test_nothing_changed_means_no_new_copy(path: Path) -> None:
    before = (path / "index.backup").stat().st_mtime_ns
    end(World(path))
    assert (path / "index.backup").stat().st_mtime_ns == before
