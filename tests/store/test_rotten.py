"""Bytes that rot under a store: a clear line or a correct file system, and a way back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from dedupfs.core.errors import Corrupt, DedupfsError, StoreTooNew
from dedupfs.core.types import ROOT_INO
from dedupfs.store import pages
from dedupfs.store.store import Store
from store.broken import (
    BIG,
    CONTENT,
    check,
    contents,
    kill,
    kinds,
    make,
    rebuild,
    repair,
    segment_files,
)
from store.test_fsck import put_meta
from vfs.world import World

HARD = CONTENT | {b"d/hard": CONTENT[b"small"]}
TESTS = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    make(made)
    return made


def rot(path: Path, what: str, seeds: range) -> list[dict[str, object]]:
    """Damage copies of a store in a child; fail when a signal ends it."""
    done = subprocess.run(
        [sys.executable, TESTS / "store" / "rotting.py", path, what, str(seeds[0]), str(seeds[-1] + 1)],
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-3000:]}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_pages_of_a_closed_index(path: Path) -> None:
    for found in rot(path, "index/data.mdb", range(20)):
        assert (found["mount"], found.get("lines", 1)) == ("refused", 1), found
        assert "failed" not in found, found
        assert found["clean"], found


def test_pages_of_a_killed_index(path: Path) -> None:
    """Nothing tells that a value in a row has changed; but nobody dies of it."""
    world = World(path)
    kill(world)
    for found in rot(path, "index/data.mdb", range(20)):
        assert found.get("lines", 1) == 1, found
        assert found.get("clean", True), found


def test_a_journal_of_a_killed_process(path: Path) -> None:
    """Flips behind the last record are nothing; any other is told, and the rest comes back."""
    world = World(path)
    for number in range(30):
        world.create(b"j%d" % number)
        world.vfs.unlink(ROOT_INO, b"j%d" % number)
    # Damage at the very end looks like a record that was being written: it takes only these.
    small = world.look(b"small").ino
    for number in range(60):
        world.vfs.setxattr(small, b"user.last", b"%d" % number * 10)
    kill(world)
    for found in rot(path, "index/journal-*", range(20)):
        assert found["mount"] != "wrong", found
        assert found.get("lines", 1) == 1, found
        assert "failed" not in found, found
        assert found.get("clean", True), found
        assert found.get("kept", len(HARD)) == len(HARD), found


def test_a_flip_in_a_journal_record_is_told(path: Path) -> None:
    world = World(path)
    world.create(b"one", b"1")
    world.create(b"two", b"2")
    kill(world)
    (file,) = (path / "index").glob("journal-*")
    raw = bytearray(file.read_bytes())
    raw[4096 + 30] ^= 1
    file.write_bytes(raw)
    with pytest.raises(Corrupt, match="damaged at 4096"):
        Store.open(path)
    assert kinds(check(path)) >= {"journal"}
    assert repair(path).left == 0
    assert check(path).problems == []
    after = contents(path)
    assert {name: after[name] for name in HARD} == HARD
    assert list((path / "index").glob("unread-journal-*"))


def test_a_journal_that_is_gone(path: Path) -> None:
    kill(World(path))
    (file,) = (path / "index").glob("journal-*")
    file.unlink()
    with pytest.raises(Corrupt, match="missing"):
        Store.open(path)
    assert repair(path).left == 0
    assert contents(path) == HARD


@pytest.mark.parametrize("at", [1024, 2048])
def test_a_mark_of_the_journal(path: Path, at: int) -> None:
    """Without a mark a killed process still loses nothing."""
    world = World(path)
    world.create(b"one", b"1")
    for _ in range(2):
        checkpoint = world.store.begin_checkpoint()
        assert checkpoint is not None
        checkpoint.write()
        world.store.end_checkpoint(checkpoint, succeeded=True)
        world.create(b"more%d" % at, b"")
        at += 1
    kill(world)
    (file,) = (path / "index").glob("journal-*")
    raw = bytearray(file.read_bytes())
    raw[at - 2 + 9] ^= 1
    file.write_bytes(raw)
    assert check(path).problems == []
    assert contents(path)[b"one"] == b"1"


@pytest.mark.parametrize("what", ["short", "missing"])
def test_a_segment(path: Path, what: str) -> None:
    file = segment_files(path)[0]
    if what == "short":
        os.truncate(file, 100)
    else:
        file.unlink()
    for name, data in contents(path).items():
        assert data in {None, HARD[name]}
    assert repair(path).left == 0
    assert check(path).problems == []


def test_an_empty_index_is_not_taken_for_a_new_store(path: Path) -> None:
    (path / "index" / "data.mdb").write_bytes(b"")
    before = {file: file.read_bytes() for file in segment_files(path)}
    with pytest.raises(Corrupt, match="is gone"):
        Store.open(path)
    assert {file: file.read_bytes() for file in segment_files(path)} == before


def test_a_newer_version(path: Path) -> None:
    put_meta(path, b"format", (99).to_bytes(4, "big"))
    (path / "index" / "digest").unlink()
    for look in (Store.open, check, repair):
        with pytest.raises(StoreTooNew, match="use a newer dedupfs"):
            look(path)
    (path / "FORMAT").write_text("dedupfs store, format 99\n")
    for look in (Store.open, check, repair, rebuild):
        with pytest.raises(StoreTooNew, match="use a newer dedupfs"):
            look(path)


def test_every_copy_damaged(path: Path) -> None:
    for file in path.glob("index.backup*"):
        file.write_bytes(random.Random(1).randbytes(500))
    assert contents(path) == HARD
    for file in path.glob("index.backup*"):
        file.write_bytes(random.Random(1).randbytes(500))
    (path / "index" / "data.mdb").unlink()
    report = rebuild(path)
    assert kinds(report) >= {"copy", "stray"}
    assert BIG in b"".join(data or b"" for data in contents(path).values())


def test_damage_is_found_in_any_page_byte_that_lmdb_trusts(path: Path) -> None:
    """The page check alone: it raises Corrupt, or nothing, for any damage, and never hangs."""
    kill(World(path))
    file = path / "index" / "data.mdb"
    raw = file.read_bytes()
    told = 0
    for seed in range(300):
        chosen = random.Random(seed)
        changed = bytearray(raw)
        page = chosen.randrange(len(raw) // 4096) * 4096
        changed[page + chosen.randrange(24)] ^= 1 << chosen.randrange(8)
        file.write_bytes(changed)
        try:
            pages.check(file)
        except DedupfsError:
            told += 1
    assert told > 60
