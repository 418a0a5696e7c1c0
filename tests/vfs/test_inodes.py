"""Unlinked but in use: content must stay as long as anyone holds it, and its space must come back."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import BadHandle, NoSuchName
from dedupfs.core.types import ROOT_INO
from dedupfs.vfs.attributes import SetAttr
from vfs.world import USER

if TYPE_CHECKING:
    from vfs.world import World


async def test_an_unlinked_open_file_is_readable_and_writable(world: World) -> None:
    made, handle = world.vfs.create(ROOT_INO, b"tmp", 0o600, USER, os.O_RDWR)
    world.vfs.write(handle, 0, b"before ")
    world.vfs.unlink(ROOT_INO, b"tmp")
    world.vfs.write(handle, 7, b"after")
    world.vfs.flush(handle)
    assert world.names() == []
    assert world.vfs.getattr(made.ino).inode.nlink == 0
    assert await world.vfs.read(handle, 0, 100) == b"before after"
    world.vfs.release(handle)
    assert world.vfs.getattr(made.ino).inode.nlink == 0, "the kernel still knows it"
    world.vfs.forget([(made.ino, 1)])
    with pytest.raises(NoSuchName):
        world.vfs.getattr(made.ino)
    assert world.inodes() == 1
    assert world.rows("extents") == world.rows("orphans") == 0


def test_each_lookup_counts(world: World) -> None:
    ino = world.create(b"file", b"x")
    for _ in range(3):
        world.vfs.lookup(ROOT_INO, b"file")
    world.vfs.link(ino, ROOT_INO, b"other")
    world.vfs.unlink(ROOT_INO, b"file")
    world.vfs.unlink(ROOT_INO, b"other")
    world.vfs.forget([(ino, 2)])
    world.vfs.forget([(ino, 1)])
    assert world.vfs.getattr(ino).ino == ino
    world.vfs.forget([(ino, 1)])
    with pytest.raises(NoSuchName):
        world.vfs.getattr(ino)


def test_forgetting_what_has_a_name_keeps_it(world: World) -> None:
    ino = world.create(b"file")
    world.vfs.lookup(ROOT_INO, b"file")
    world.vfs.forget([(ino, 1), (ino, 5), (ROOT_INO, 1), (99, 1)])  # type: ignore[list-item]
    assert world.look(b"file").ino == ino


def test_an_open_file_outlives_its_last_lookup(world: World) -> None:
    ino = world.create(b"file", b"x")
    handle = world.vfs.open(ino, os.O_RDONLY)
    world.vfs.unlink(ROOT_INO, b"file")
    world.vfs.forget([(ino, 1)])
    assert world.vfs.getattr(ino).inode.size == 1
    world.vfs.release(handle)
    with pytest.raises(NoSuchName):
        world.vfs.getattr(ino)


def test_a_removed_directory_in_use_goes_when_it_is_forgotten(world: World) -> None:
    made = world.vfs.mkdir(ROOT_INO, b"dir", 0o755, USER)
    world.vfs.rmdir(ROOT_INO, b"dir")
    assert world.vfs.getattr(made.ino).inode.nlink == 0
    world.vfs.forget([(made.ino, 1)])
    assert world.inodes() == 1


def test_a_killed_process_leaves_no_unlinked_files_behind(world: World) -> None:
    made, handle = world.vfs.create(ROOT_INO, b"tmp", 0o600, USER, os.O_RDWR)
    world.vfs.write(handle, 0, os.urandom(100_000))
    world.vfs.flush(handle)
    world.vfs.unlink(ROOT_INO, b"tmp")
    assert world.rows("orphans") == 1
    world.crash()
    assert world.inodes() == 1
    assert world.rows("extents") == world.rows("orphans") == 0
    with pytest.raises(NoSuchName):
        world.vfs.getattr(made.ino)


def test_the_end_of_the_mount_drops_what_is_unlinked(world: World) -> None:
    _, handle = world.vfs.create(ROOT_INO, b"tmp", 0o600, USER, os.O_RDWR)
    world.vfs.write(handle, 0, b"x" * 5000)
    world.vfs.unlink(ROOT_INO, b"tmp")
    world.reopen()
    assert world.inodes() == 1
    assert world.rows("extents") == 0


async def test_what_flush_acknowledged_survives_a_kill(world: World) -> None:
    made, handle = world.vfs.create(ROOT_INO, b"file", 0o600, USER, os.O_RDWR)
    data = os.urandom(300_000)
    world.vfs.write(handle, 0, data)
    world.vfs.flush(handle)
    mtime_ns = world.vfs.getattr(made.ino).inode.mtime_ns
    world.vfs.write(handle, 300_000, b"not flushed")
    world.crash()
    found = world.look(b"file")
    assert found.inode.size == 300_000
    assert found.inode.mtime_ns == mtime_ns
    assert await world.content(found.ino) == data


async def test_the_end_of_the_mount_keeps_what_was_written(world: World) -> None:
    made, handle = world.vfs.create(ROOT_INO, b"file", 0o600, USER, os.O_RDWR)
    world.vfs.write(handle, 0, b"written, never flushed")
    world.reopen()
    assert await world.content(made.ino) == b"written, never flushed"
    with pytest.raises(BadHandle):
        world.vfs.flush(handle)


def test_inode_numbers_are_never_used_again(world: World) -> None:
    """A kernel or NFS client that remembers a number must not meet another file."""
    first = world.create(b"file")
    world.vfs.unlink(ROOT_INO, b"file")
    world.reopen()
    assert world.create(b"file") > first


def test_an_undone_change_does_not_show_in_the_open_file(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino = world.create(b"file", b"12345")
    handle = world.vfs.open(ino, os.O_RDWR)

    def fail(*_: object) -> int:
        raise OSError(5, "the disk is gone")

    monkeypatch.setattr(world.store, "truncate", fail)
    before = copy.copy(world.vfs.getattr(ino).inode)
    with pytest.raises(OSError, match="gone"):
        world.vfs.setattr(ino, SetAttr(size=1, mode=0o777))
    monkeypatch.undo()
    assert world.vfs.getattr(ino).inode == before
    world.vfs.release(handle)
