"""A commit that the disk had not kept when the power went: what was promised before it must be there."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import Corrupt, StoreError
from dedupfs.core.types import ROOT_INO
from dedupfs.store import instance, journal, offline, rollback
from dedupfs.store.environment import peek
from dedupfs.store.fsck.session import Mode, run
from vfs.world import World

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
OTHER_BOOT = instance.Instance(b"another boot id.", 1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "store")


def checkpoint(world: World) -> None:
    found = world.store.begin_checkpoint()
    assert found is not None
    found.write()
    world.store.end_checkpoint(found, succeeded=True)


def filled(world: World) -> None:
    """Names until a checkpoint, and a fold behind it that is not durable."""
    for number in range(50):
        world.create(b"kept-%d" % number, os.urandom(5000))
    world.store.index.fold_soon = True
    checkpoint(world)
    assert not world.store.index.is_marked, "the commit is not synced"
    for number in range(50):
        world.create(b"late-%d" % number, os.urandom(5000))


def cut(world: World, monkeypatch: pytest.MonkeyPatch, *, keeps: str) -> Path:
    """Return a copy of the index as the power cut left it: `keeps` of the torn commit."""
    index = world.path / "index"
    with (index / "data.mdb").open("rb") as file:
        whole = bytearray(file.read())
    before = world.torn_before  # type: ignore[attr-defined]
    if keeps == "meta":
        torn = bytearray(before.ljust(len(whole), b"\0"))
        torn[: 2 * PAGE] = whole[: 2 * PAGE]
    elif keeps == "pages":
        torn = whole
        torn[: 2 * PAGE] = before[: 2 * PAGE]
    else:
        torn = {"all": whole, "nothing": bytearray(before)}[keeps]
    world.store.index.close()
    world.store._lock.release()
    (index / "data.mdb").write_bytes(torn)
    monkeypatch.setattr(instance, "current", lambda _folder: OTHER_BOOT)
    return index


@pytest.mark.parametrize("keeps", ["meta", "pages", "all", "nothing"])
def test_all_of_the_last_checkpoint_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch, keeps: str
) -> None:
    fold = world.store.index.fold

    def noted(**how: bool) -> None:
        world.torn_before = (world.path / "index/data.mdb").read_bytes()  # type: ignore[attr-defined]
        fold(**how)

    monkeypatch.setattr(world.store.index, "fold", noted)
    filled(world)
    index = cut(world, monkeypatch, keeps=keeps)
    has_meta = keeps in {"meta", "all"}
    assert rollback.is_needed(index, OTHER_BOOT) == has_meta
    if has_meta:
        with pytest.raises(Corrupt, match="next mount"):
            peek(index)
    copy = index.parent.with_name("again")
    shutil.copytree(index.parent, copy)  # the power goes again after the commit was taken back
    assert rollback.roll_back(copy / "index", OTHER_BOOT) == has_meta
    assert not rollback.roll_back(copy / "index", OTHER_BOOT)
    for path in (index.parent, copy):
        again = World(path)
        assert {b"kept-%d" % number for number in range(50)} <= set(again.names(ROOT_INO))
        again.close()


def test_a_killed_process_loses_nothing_and_nothing_is_taken_back(world: World) -> None:
    filled(world)
    index = world.path / "index"
    assert not rollback.is_needed(index, instance.current(world.path))
    world.crash()
    assert len(world.names()) == 100
    world.close()


def test_once_marked_a_commit_stays(world: World) -> None:
    filled(world)
    index = world.path / "index"
    assert rollback.is_needed(index, OTHER_BOOT)
    assert len(list(index.glob("journal-*"))) == 2, "the old one is needed until then"
    checkpoint(world)
    assert not rollback.is_needed(index, OTHER_BOOT)
    assert len(list(index.glob("journal-*"))) == 1
    world.close()


def test_a_journal_cut_off_while_it_was_made_takes_nothing_back(world: World) -> None:
    filled(world)
    checkpoint(world)
    index = world.path / "index"
    journal.path_of(index, world.store.index.epoch + 1).write_bytes(b"dedupfsJ")
    assert not rollback.is_needed(index, OTHER_BOOT)
    world.close()


def left_by_kill(world: World) -> Path:
    """Return the index of a store as a kill leaves it, the last fold not synced."""
    filled(world)
    world.store.index.close()
    world.store._lock.release()
    return world.path / "index"


def test_a_commit_that_a_later_synced_one_followed_stays(world: World) -> None:
    """The removal of the journals is not durable yet when the power goes behind a repair."""
    index = left_by_kill(world)
    journals = {path: path.read_bytes() for path in index.glob("journal-*")}
    assert run(world.path, Mode.REPAIR, lambda *_: None).is_clean
    for path, content in journals.items():
        path.write_bytes(content)
    assert not rollback.is_needed(index, OTHER_BOOT)
    assert peek(index)[0].files == 100


def test_a_look_at_a_store_whose_journal_was_being_made(world: World) -> None:
    filled(world)
    checkpoint(world)
    epoch = world.store.index.epoch
    world.store.index.close()
    world.store._lock.release()
    index = world.path / "index"
    journal.path_of(index, epoch + 1).write_bytes(b"")
    assert peek(index)[0].files == 100


def test_a_look_leaves_to_the_next_start_that_the_power_went(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same boot, the disk mounted anew: only the page cache tells that it is not a kill."""
    filled(world)
    checkpoint(world)
    world.create(b"lost", b"")
    world.store.index.close()
    world.store._lock.release()
    index = world.path / "index"
    now = instance.current(world.path)
    monkeypatch.setattr(instance, "current", lambda _: now._replace(mount_id=now.mount_id + 1))
    for path in index.glob("journal-*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if instance.is_any_page_cached(path):
            pytest.skip("a file system in memory")
    assert peek(index)[0].files == 100
    with offline.opened(index) as opened:
        assert opened.txn.counters.files == 100
    again = World(world.path)
    assert b"lost" not in again.names(ROOT_INO)
    again.close()


def test_a_disk_that_did_not_keep_the_start_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = left_by_kill(world)

    def failing(_journal: journal.Journal, _position: int) -> None:
        raise journal.NotKept(errno.EIO, "fdatasync")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "mark", failing)
        with pytest.raises(StoreError):
            World(world.path)
    assert (index / journal.SUSPECT).exists()
    again = World(world.path)
    assert len(again.names()) == 50
    again.close()


def test_a_repair_of_a_suspect_store_goes_back_as_a_start_does(world: World) -> None:
    filled(world)
    checkpoint(world)
    world.create(b"lost", b"")
    world.store.index.note_lost()
    world.store.index.close()
    world.store._lock.release()
    with offline.opened(world.path / "index") as opened:
        assert opened.txn.counters.files == 100
