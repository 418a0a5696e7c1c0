"""Rename: programs save files with it; a wrong one loses the old and the new."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import (
    InvalidArgument,
    IsADirectory,
    NameExists,
    NoSuchName,
    NotADirectory,
    NotEmpty,
)
from dedupfs.core.types import ROOT_INO

if TYPE_CHECKING:
    from vfs.world import World


async def test_saving_by_rename_replaces_the_content(world: World) -> None:
    old = world.create(b"file", b"old")
    new = world.create(b"file.tmp", b"new")
    world.vfs.rename(ROOT_INO, b"file.tmp", ROOT_INO, b"file")
    assert world.names() == [b"file"]
    assert world.look(b"file").ino == new
    assert await world.content(new) == b"new"
    with pytest.raises(NoSuchName):
        world.vfs.getattr(old)


async def test_the_replaced_file_stays_readable_for_who_has_it_open(world: World) -> None:
    old = world.create(b"file", b"old")
    handle = world.vfs.open(old, os.O_RDONLY)
    world.create(b"file.tmp", b"new")
    world.vfs.rename(ROOT_INO, b"file.tmp", ROOT_INO, b"file")
    assert world.vfs.getattr(old).inode.nlink == 0
    assert await world.vfs.read(handle, 0, 10) == b"old"
    world.vfs.release(handle)
    with pytest.raises(NoSuchName):
        world.vfs.getattr(old)


def test_two_names_of_one_inode_stay_two(world: World) -> None:
    """rename(2): if both are links to the same file, it does nothing."""
    ino = world.create(b"a")
    world.vfs.link(ino, ROOT_INO, b"b")
    before = world.vfs.getattr(ino).inode.ctime_ns
    world.vfs.rename(ROOT_INO, b"a", ROOT_INO, b"b")
    world.vfs.rename(ROOT_INO, b"a", ROOT_INO, b"a")
    assert sorted(world.names()) == [b"a", b"b"]
    assert world.vfs.getattr(ino).inode.ctime_ns == before


def test_a_moved_directory_knows_its_new_parent(world: World) -> None:
    one, two = world.mkdir(b"one"), world.mkdir(b"two")
    moved = world.mkdir(b"moved", one)
    world.vfs.rename(one, b"moved", two, b"renamed")
    assert world.look(b"..", moved).ino == two
    assert world.vfs.getattr(one).inode.nlink == 2
    assert world.vfs.getattr(two).inode.nlink == 3
    world.vfs.rename(two, b"renamed", two, b"again")
    assert world.vfs.getattr(two).inode.nlink == 3


def test_a_directory_replaces_only_an_empty_one(world: World) -> None:
    moved, empty, full = world.mkdir(b"moved"), world.mkdir(b"empty"), world.mkdir(b"full")
    world.create(b"file", parent=full)
    with pytest.raises(NotEmpty):
        world.vfs.rename(ROOT_INO, b"moved", ROOT_INO, b"full")
    world.vfs.rename(ROOT_INO, b"moved", ROOT_INO, b"empty")
    assert world.look(b"empty").ino == moved
    assert world.vfs.getattr(ROOT_INO).inode.nlink == 4
    with pytest.raises(NoSuchName):
        world.vfs.getattr(empty)


def test_files_and_directories_do_not_replace_each_other(world: World) -> None:
    world.create(b"file")
    world.mkdir(b"dir")
    with pytest.raises(NotADirectory):
        world.vfs.rename(ROOT_INO, b"dir", ROOT_INO, b"file")
    with pytest.raises(IsADirectory):
        world.vfs.rename(ROOT_INO, b"file", ROOT_INO, b"dir")
    with pytest.raises(NoSuchName):
        world.vfs.rename(ROOT_INO, b"none", ROOT_INO, b"other")
    assert sorted(world.names()) == [b"dir", b"file"]


def test_no_replace_keeps_what_is_there(world: World) -> None:
    a, b = world.create(b"a"), world.create(b"b")
    with pytest.raises(NameExists):
        world.vfs.rename(ROOT_INO, b"a", ROOT_INO, b"b", no_replace=True)
    assert (world.look(b"a").ino, world.look(b"b").ino) == (a, b)
    world.vfs.rename(ROOT_INO, b"a", ROOT_INO, b"c", no_replace=True)
    assert world.look(b"c").ino == a


def test_exchange_swaps_a_file_and_a_directory(world: World) -> None:
    top = world.mkdir(b"top")
    inner = world.mkdir(b"inner", top)
    file = world.create(b"file")
    world.vfs.rename(ROOT_INO, b"file", top, b"inner", exchange=True)
    assert world.look(b"file").ino == inner
    assert world.look(b"inner", top).ino == file
    assert world.look(b"..", inner).ino == ROOT_INO
    assert world.vfs.getattr(top).inode.nlink == 2
    assert world.vfs.getattr(ROOT_INO).inode.nlink == 4
    with pytest.raises(NoSuchName):
        world.vfs.rename(ROOT_INO, b"file", ROOT_INO, b"none", exchange=True)
    with pytest.raises(InvalidArgument):
        world.vfs.rename(ROOT_INO, b"file", top, b"inner", exchange=True, no_replace=True)


def test_a_directory_is_not_moved_under_itself(world: World) -> None:
    """Else the whole tree would hang in the air, unreachable and never freed."""
    top = world.mkdir(b"top")
    middle = world.mkdir(b"middle", top)
    bottom = world.mkdir(b"bottom", middle)
    world.create(b"file", parent=bottom)
    with pytest.raises(InvalidArgument):
        world.vfs.rename(ROOT_INO, b"top", bottom, b"x")
    with pytest.raises(InvalidArgument):
        world.vfs.rename(ROOT_INO, b"top", top, b"x")
    with pytest.raises(InvalidArgument):
        world.vfs.rename(bottom, b"file", ROOT_INO, b"top", exchange=True)
    assert world.names(bottom) == [b"file"]


def test_rename_changes_the_times_that_rename_changes(world: World) -> None:
    one, two = world.mkdir(b"one"), world.mkdir(b"two")
    ino = world.create(b"file", b"x", parent=one)
    before = {i: world.vfs.getattr(i).inode for i in (one, two, ino)}
    world.vfs.rename(one, b"file", two, b"file")
    after = {i: world.vfs.getattr(i).inode for i in (one, two, ino)}
    for directory in (one, two):
        assert after[directory].mtime_ns > before[directory].mtime_ns
        assert after[directory].ctime_ns > before[directory].ctime_ns
    assert after[ino].ctime_ns > before[ino].ctime_ns
    assert after[ino].mtime_ns == before[ino].mtime_ns
