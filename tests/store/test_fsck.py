from __future__ import annotations

import json
import os
import random
import re
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import lmdb
import pytest

from dedupfs.core.errors import NotAStore, StoreInUse
from dedupfs.core.format import (
    PAIR,
    SHARE,
    TABLES,
    U64,
    Extent,
    name_key,
    pair_key,
    unpack_extent,
)
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import namespace
from dedupfs.store.fsck import space
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
    repair,
    segment_files,
)
from vfs.world import World

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dedupfs.store.txn import Txn

HARD = CONTENT | {b"d/hard": CONTENT[b"small"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    make(made)
    return made


def ino_of(txn: Txn, path: bytes) -> Ino:
    ino = ROOT_INO
    for name in path.split(b"/"):
        entry = namespace.find_entry(txn, ino, name)
        assert entry is not None
        ino = entry.ino
    return ino


def state_of(folder: Path) -> dict[Path, tuple[int, int, int]]:
    return {
        file: (found.st_mtime_ns, found.st_size, found.st_ctime_ns)
        for file in folder.rglob("*")
        if (found := file.stat())
    }


def test_a_sound_store_is_clean_and_untouched(path: Path) -> None:
    before = state_of(path)
    report = check(path)
    assert report.problems == []
    assert report.summary["files"] == len(CONTENT) + 1
    assert state_of(path) == before
    assert repair(path).is_clean


def test_a_killed_store_is_clean_and_untouched(path: Path) -> None:
    world = World(path)
    world.create(b"more", b"z" * 300_000)
    world.vfs.unlink(ROOT_INO, b"big")
    kill(world)
    (path / "segments" / f"{1 << 40:016x}").write_bytes(b"made, and never acknowledged")
    before = state_of(path)
    report = check(path)
    assert report.problems == []
    assert report.summary["files"] == len(CONTENT) + 1
    assert state_of(path) == before
    assert repair(path).is_clean
    assert check(path).is_clean
    expected = HARD | {b"more": b"z" * 300_000}
    del expected[b"big"]
    assert contents(path) == expected


def test_a_mounted_store_is_refused(path: Path) -> None:
    world = World(path)
    for look in (check, repair):
        with pytest.raises(StoreInUse, match="in use by process"):
            look(path)
    end(world)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAStore):
        check(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _flip_links(txn: Txn) -> None:
    inode = namespace.get_inode(txn, ino_of(txn, b"small"))
    inode.nlink = 9
    namespace.put_inode(txn, ino_of(txn, b"small"), inode)


def _wrong_parent(txn: Txn) -> None:
    inode = namespace.get_inode(txn, ino_of(txn, b"d/e"))
    inode.parent = 1
    namespace.put_inode(txn, ino_of(txn, b"d/e"), inode)


def _wrong_mapped(txn: Txn) -> None:
    inode = namespace.get_inode(txn, ino_of(txn, b"big"))
    inode.mapped_bytes += 4096
    namespace.put_inode(txn, ino_of(txn, b"big"), inode)


def _no_cookie(txn: Txn) -> None:
    entry = namespace.find_entry(txn, ROOT_INO, b"big")
    assert entry is not None
    txn.delete("cookies", pair_key(ROOT_INO, entry.cookie))


def _cookie_of_nothing(txn: Txn) -> None:
    txn.put("cookies", pair_key(ROOT_INO, 1 << 30), U64.pack(2) + b"ghost")


def _entry_of_nothing(txn: Txn) -> None:
    namespace.add_entry(txn, ROOT_INO, b"ghost", Ino(999_999))


def _wrong_share(txn: Txn) -> None:
    key, value = next(iter(txn.scan("shares", b"")))
    length, users = SHARE.unpack(value)
    txn.put("shares", key, SHARE.pack(length, users + 1))


def _no_shares(txn: Txn) -> None:
    txn.clear("shares")


def _no_chunk(txn: Txn) -> None:
    txn.delete("chunks", next(iter(txn.scan("chunks", b"")))[0])


def _no_chunk_at(txn: Txn) -> None:
    txn.delete("chunk_at", next(iter(txn.scan("chunk_at", b"")))[0])


def _wrong_counters(txn: Txn) -> None:
    txn.counters.files = 77
    txn.counters.next_ino = 2
    txn.counters.logical_bytes = 1


def _marked_unlinked(txn: Txn) -> None:
    namespace.add_orphan(txn, ino_of(txn, b"big"))
    namespace.add_orphan(txn, Ino(424_242))


def _attribute_of_nothing(txn: Txn) -> None:
    namespace.put_xattr(txn, Ino(424_242), b"user.x", b"y")


def _senseless_rows(txn: Txn) -> None:
    txn.put("frees", b"odd", b"")
    txn.put("orphans", b"odd", b"")
    txn.put("inodes", b"\xff" * 8, b"short")
    txn.put("chunk_at", PAIR.pack(1, 1 << 43), b"short")


def _no_segments(txn: Txn) -> None:
    txn.clear("segments")


MENDABLE: dict[str, Callable[[Txn], None]] = {
    "links": _flip_links,
    "parent": _wrong_parent,
    "mapped-bytes": _wrong_mapped,
    "listing": _no_cookie,
    "listing ": _cookie_of_nothing,
    "entry": _entry_of_nothing,
    "shares": _wrong_share,
    "shares ": _no_shares,
    "chunk": _no_chunk,
    "chunk ": _no_chunk_at,
    "counter": _wrong_counters,
    "orphan": _marked_unlinked,
    "row": _attribute_of_nothing,
    "row ": _senseless_rows,
    "segment": _no_segments,
}


@pytest.mark.parametrize("kind", MENDABLE)
def test_what_can_be_made_anew_is_mended_without_loss(path: Path, kind: str) -> None:
    with edited(path) as txn:
        MENDABLE[kind](txn)
    before = state_of(path / "index")
    assert kind.strip() in kinds(check(path))
    assert state_of(path / "index") == before
    report = repair(path)
    assert report.left == 0
    assert kind.strip() in kinds(report)
    assert check(path).problems == []
    assert contents(path) == HARD
    assert check(path).problems == []


def test_a_file_without_a_name_goes_to_lost_and_found(path: Path) -> None:
    with edited(path) as txn:
        ino = ino_of(txn, b"d/e")
        entry = namespace.find_entry(txn, ino, b"own")
        assert entry is not None
        namespace.remove_entry(txn, ino, entry)
    report = repair(path)
    assert kinds(report) >= {"unreachable"}
    assert check(path).problems == []
    expected = HARD | {b"lost+found/inode-%d" % entry.ino: CONTENT[b"d/e/own"]}
    del expected[b"d/e/own"]
    assert contents(path) == expected


def test_a_directory_without_an_inode_keeps_what_is_in_it(path: Path) -> None:
    with edited(path) as txn:
        txn.delete("inodes", U64.pack(ino_of(txn, b"d")))
    assert repair(path).left == 0
    assert check(path).problems == []
    expected = {
        (b"lost+found/" + name if name.startswith(b"d/") else name): data
        for name, data in HARD.items()
    }
    assert contents(path) == expected


def test_a_file_without_an_inode_keeps_its_content_and_path(path: Path) -> None:
    with edited(path) as txn:
        txn.delete("inodes", U64.pack(ino_of(txn, b"d/e/own")))
    report = repair(path)
    assert [problem.path for problem in report.problems if problem.is_lost] == [b"d/e/own"]
    assert check(path).problems == []
    assert contents(path)[b"lost+found/own"] == CONTENT[b"d/e/own"]
    world = World(path)
    folder = world.look(b"lost+found")
    assert stat.S_IMODE(folder.inode.mode) == 0o700
    ino = world.look(b"own", folder.ino).ino
    assert world.vfs.getxattr(ino, b"user.dedupfs.lost_path") == b"d/e/own"
    assert world.vfs.getxattr(ino, b"user.name") == b"d/e/own"
    end(world)


def test_directories_in_a_circle_are_found_again(path: Path) -> None:
    world = World(path)
    one = world.mkdir(b"one")
    two = world.mkdir(b"two", one)
    world.create(b"inside", b"still here", two)
    end(world)
    with edited(path) as txn:
        entry = namespace.find_entry(txn, ROOT_INO, b"one")
        assert entry is not None
        namespace.remove_entry(txn, ROOT_INO, entry)
        namespace.add_entry(txn, two, b"one", one)
    assert "circle" in kinds(check(path))
    assert repair(path).left == 0
    assert check(path).problems == []
    assert b"still here" in contents(path).values()


def test_overlapping_extents_are_cut_and_the_file_is_set_aside(path: Path) -> None:
    with edited(path) as txn:
        ino = ino_of(txn, b"big")
        key, value = next(iter(txn.scan("extents", pair_key(ino, 0))))
        whole = unpack_extent(key, value)
        space.put_extent(
            txn, ino, Extent(4096, whole.segment, whole.segment_offset, whole.length - 4096)
        )
    report = repair(path)
    assert "extent" in kinds(report)
    assert check(path).problems == []
    assert contents(path)[b"lost+found/big"] == BIG
    assert contents(path)[b"d/same"] == BIG


@pytest.mark.parametrize("how", ["missing", "short", "hole"])
def test_a_file_that_lost_bytes_is_an_error_to_read_never_wrong(path: Path, how: str) -> None:
    file = segment_files(path)[0]
    size = file.stat().st_size
    if how == "missing":
        file.unlink()
    elif how == "short":
        os.truncate(file, size // 2)
    else:
        subprocess.run(["fallocate", "--punch-hole", "-o", "65536", "-l", "8192", file], check=True)
    report = check(path)
    lost = {problem.path for problem in report.problems if problem.kind == "lost-bytes"}
    assert lost
    assert repair(path).left == 0
    assert check(path).problems == []
    after = contents(path)
    assert check(path).problems == []
    assert {name: after[name] for name in HARD if name not in lost} == {
        name: data for name, data in HARD.items() if name not in lost
    }
    assert all(after[b"lost+found/" + name.rpartition(b"/")[2]] is None for name in lost if name)


def test_a_segment_that_no_row_knows_is_kept_as_a_file(path: Path) -> None:
    data = random.Random(3).randbytes(100_000)
    (path / "segments" / f"{500:016x}").write_bytes(data)
    assert kinds(check(path)) >= {"stray"}
    assert repair(path).left == 0
    assert check(path).problems == []
    assert contents(path) == HARD | {b"lost+found/segment-%016x" % 500: data}


def test_rows_out_of_order_are_sorted_again(path: Path) -> None:
    with edited(path) as txn:
        for number in range(300):
            namespace.add_entry(txn, ROOT_INO, b"name-%04d" % number, ino_of(txn, b"small"))
    assert repair(path).left == 0
    file = path / "index" / "data.mdb"
    raw = file.read_bytes()
    # In the page, not through LMDB: a key that now sorts elsewhere.
    assert raw.count(name_key(ROOT_INO, b"name-0100")) >= 1
    file.write_bytes(
        raw.replace(name_key(ROOT_INO, b"name-0100"), name_key(ROOT_INO, b"nbme-0100"))
    )
    assert kinds(check(path)) == {"order", "rotten"}
    assert repair(path).left == 0
    assert check(path).problems == []
    found = contents(path)
    assert {name: found[name] for name in HARD} == HARD
    assert len(found) >= len(HARD) + 299


@pytest.mark.parametrize("seed", range(12))
def test_rows_damaged_at_random_are_mended_for_good(path: Path, seed: int) -> None:
    """Whatever the rows say, a second look finds nothing, and the store can be used."""
    chosen = random.Random(seed)
    with edited(path) as txn:
        for _ in range(chosen.choice([1, 2, 6])):
            _damage_a_row(txn, chosen)
    assert repair(path).left == 0
    assert check(path).problems == []
    world = World(path)
    world.create(b"after", BIG)
    end(world)
    assert contents(path)[b"after"] == BIG
    assert check(path).problems == []


def _damage_a_row(txn: Txn, chosen: random.Random) -> None:
    table = chosen.choice([table for table in TABLES if table != "meta" and txn.rows(table)])
    key, value = chosen.choice(list(txn.scan(table, b"")))
    how = chosen.choice(["delete", "value", "value", "key", "short"])
    if how in {"delete", "key"}:
        txn.delete(table, key)
    if how == "value" and value:
        txn.put(table, key, _flipped(value, chosen))
    elif how == "key":
        txn.put(table, _flipped(key, chosen), value)
    elif how == "short":
        txn.put(table, key, value[:-1])


def _flipped(raw: bytes, chosen: random.Random) -> bytes:
    out = bytearray(raw)
    out[chosen.randrange(len(out))] ^= 1 << chosen.randrange(8)
    return bytes(out)


def test_counters_that_do_not_parse_are_counted_anew(path: Path) -> None:
    put_meta(path, b"counters", b"short")
    assert "journal" in kinds(check(path))
    assert repair(path).left == 0
    assert check(path).problems == []
    world = World(path)
    world.create(b"after", b"new numbers do not meet old ones")
    end(world)
    assert contents(path) == HARD | {b"after": b"new numbers do not meet old ones"}


def put_meta(path: Path, key: bytes, value: bytes) -> None:
    folder = str(path / "index")
    with lmdb.open(folder, max_dbs=20, map_size=1 << 30) as env, env.begin(write=True) as txn:
        txn.put(key, value, db=env.open_db(b"meta", txn=txn))


def run_fsck(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dedupfs.cli", "fsck", str(path), *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_tells_and_exits_as_fsck_does(path: Path) -> None:
    done = run_fsck(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("clean: 8 files in 3 folders")
    with edited(path) as txn:
        _flip_links(txn)
    found = run_fsck(path, "--quiet")
    assert found.returncode == 4
    assert re.fullmatch(
        r"links (small|d/hard): inode \d+ says it has 9 links, and has 2\n", found.stdout
    )
    document = json.loads(run_fsck(path, "--json").stdout)
    assert document["clean"] is False
    assert document["problems"][0]["kind"] == "links"
    assert document["problems"][0]["repaired"] is False
    assert run_fsck(path, "--repair").returncode == 1
    assert run_fsck(path).returncode == 0
    assert run_fsck(path, "--repair", "--rebuild").returncode == 2
    nothing = run_fsck(path.parent)
    assert nothing.returncode == 8
    assert len(nothing.stderr.splitlines()) == 1
