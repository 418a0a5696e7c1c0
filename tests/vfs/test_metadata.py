"""Attributes: rsync, make and backup tools go by them, and setuid bits are a matter of safety."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import InvalidArgument, IsADirectory, NoSuchName, NotPermitted
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.vfs.attributes import TIME_MAX_NS, TIME_MIN_NS, SetAttr
from vfs.world import START_NS, USER

if TYPE_CHECKING:
    from vfs.world import World


def test_chmod_keeps_the_type_and_changes_only_ctime(world: World) -> None:
    ino = world.create(b"file", b"x")
    before = world.vfs.getattr(ino).inode
    after = world.vfs.setattr(ino, SetAttr(mode=0o1751)).inode
    assert after.mode == stat.S_IFREG | 0o1751
    assert after.ctime_ns > before.ctime_ns
    assert (after.mtime_ns, after.atime_ns) == (before.mtime_ns, before.atime_ns)


def test_attributes_survive_a_restart_and_a_kill(world: World) -> None:
    ino = world.create(b"file", b"x")
    world.vfs.setattr(ino, SetAttr(mode=0o600, uid=7, gid=8, atime_ns=9, mtime_ns=10))
    for again in (world.reopen, world.crash):
        again()
        inode = world.vfs.getattr(ino).inode
        assert stat.S_IMODE(inode.mode) == 0o600
        assert (inode.uid, inode.gid, inode.atime_ns, inode.mtime_ns) == (7, 8, 9, 10)


def test_attributes_of_an_open_file_are_kept_with_its_unflushed_size(world: World) -> None:
    made, handle = world.vfs.create(ROOT_INO, b"file", 0o644, USER, os.O_RDWR)
    world.vfs.write(handle, 0, b"12345")
    world.vfs.setattr(made.ino, SetAttr(mode=0o600))
    world.vfs.write(handle, 5, b"67890")
    world.vfs.setattr(made.ino, SetAttr(mtime_ns=START_NS))
    world.vfs.release(handle)
    world.reopen()
    inode = world.vfs.getattr(made.ino).inode
    assert (stat.S_IMODE(inode.mode), inode.size, inode.mtime_ns) == (0o600, 10, START_NS)


def test_the_kernel_may_bring_its_own_ctime(world: World) -> None:
    ino = world.create(b"file")
    inode = world.vfs.setattr(ino, SetAttr(mtime_ns=5, ctime_ns=6)).inode
    assert (inode.mtime_ns, inode.ctime_ns) == (5, 6)


def test_with_the_writeback_cache_times_of_files_are_the_kernels(world: World) -> None:
    """What stat showed before a remount must be what it shows after."""
    world.vfs.serve_kernel(
        forget_name=lambda _parent, _name: None,
        forget_attributes=[].append,
        forget_listing=[].append,
        keeps_times=True,
    )
    made, handle = world.vfs.create(ROOT_INO, b"file", 0o644, USER, os.O_RDWR)
    times = (made.inode.mtime_ns, made.inode.ctime_ns)
    world.vfs.write(handle, 0, b"12345")
    world.vfs.release(handle)
    world.vfs.setattr(made.ino, SetAttr(size=3))
    world.vfs.setattr(made.ino, SetAttr())
    world.vfs.release(world.vfs.open(made.ino, os.O_WRONLY | os.O_TRUNC))
    inode = world.vfs.getattr(made.ino).inode
    assert (inode.mtime_ns, inode.ctime_ns) == times
    assert world.vfs.setattr(made.ino, SetAttr(mode=0o600, ctime_ns=77)).inode.ctime_ns == 77
    directory = world.mkdir(b"dir")
    before = world.vfs.getattr(directory).inode.ctime_ns
    assert world.vfs.setattr(directory, SetAttr(mode=0o700)).inode.ctime_ns > before


@pytest.mark.parametrize(("wish", "want"), [(1 << 70, TIME_MAX_NS), (-(1 << 70), TIME_MIN_NS)])
def test_times_no_inode_can_hold_become_the_nearest(world: World, wish: int, want: int) -> None:
    ino = world.create(b"file")
    world.vfs.setattr(ino, SetAttr(atime_ns=wish, mtime_ns=wish))
    world.reopen()
    assert world.vfs.getattr(ino).inode.mtime_ns == want


def test_times_before_1970_are_kept(world: World) -> None:
    ino = world.create(b"file")
    world.vfs.setattr(ino, SetAttr(mtime_ns=-1_500_000_000))
    world.reopen()
    assert world.vfs.getattr(ino).inode.mtime_ns == -1_500_000_000


def privileged(world: World, mode: int) -> Ino:
    ino = world.create(b"file", b"12345")
    world.vfs.setattr(ino, SetAttr(mode=mode))
    return ino


def test_a_new_owner_takes_setuid_away(world: World) -> None:
    """Else chown would hand out a program that runs as somebody else."""
    ino = privileged(world, 0o6755)
    world.vfs.setattr(ino, SetAttr(uid=5))
    assert world.mode(ino) == 0o755
    world.vfs.setattr(ino, SetAttr(mode=0o2745))
    world.vfs.setattr(ino, SetAttr(gid=5))
    assert world.mode(ino) == 0o2745, "without group execution the bit means mandatory locks"


def test_what_the_kernel_says_about_the_mode_wins(world: World) -> None:
    ino = privileged(world, 0o6755)
    world.vfs.setattr(ino, SetAttr(uid=5, mode=0o4755))
    assert world.mode(ino) == 0o4755


def test_an_unprivileged_truncate_takes_setuid_away_roots_does_not(world: World) -> None:
    ino = privileged(world, 0o6755)
    world.vfs.setattr(ino, SetAttr(size=3))
    assert world.mode(ino) == 0o6755
    world.vfs.setattr(ino, SetAttr(size=2, caller_uid=7))
    assert world.mode(ino) == 0o755
    world.vfs.setattr(ino, SetAttr(mode=0o4755))
    world.vfs.release(world.vfs.open(ino, os.O_WRONLY | os.O_TRUNC, caller_uid=7))
    assert world.mode(ino) == 0o755


def test_asking_for_nothing_takes_setuid_away_utimens_does_not(world: World) -> None:
    ino = privileged(world, 0o6755)
    world.vfs.setattr(ino, SetAttr(atime_ns=1, mtime_ns=2, caller_uid=1000))
    assert world.mode(ino) == 0o6755
    world.vfs.setattr(ino, SetAttr(ctime_ns=5, caller_uid=1000))
    assert world.mode(ino) == 0o755


def test_a_stranger_takes_setuid_away_only_by_writing(world: World) -> None:
    """Else anybody could break sudo with chown(-1, -1)."""
    ino = privileged(world, 0o6755)
    stranger = SetAttr(caller_uid=7)
    with pytest.raises(NotPermitted):
        world.vfs.setattr(ino, stranger)
    reading = world.vfs.open(ino, os.O_RDONLY)
    with pytest.raises(NotPermitted):
        world.vfs.setattr(ino, stranger)
    assert world.mode(ino) == 0o6755
    writing = world.vfs.open(ino, os.O_WRONLY)
    world.vfs.setattr(ino, stranger)
    assert world.mode(ino) == 0o755
    world.vfs.release(reading)
    world.vfs.release(writing)
    world.vfs.setattr(ino, stranger)


def test_directories_keep_setgid_whoever_owns_them(world: World) -> None:
    ino = world.mkdir(b"dir")
    world.vfs.setattr(ino, SetAttr(mode=0o2775))
    world.vfs.setattr(ino, SetAttr(uid=5, gid=6))
    assert world.mode(ino) == 0o2775


def test_only_files_have_a_size_to_change(world: World) -> None:
    with pytest.raises(IsADirectory):
        world.vfs.setattr(world.mkdir(b"dir"), SetAttr(size=0))
    fifo = world.vfs.mknod(ROOT_INO, b"fifo", stat.S_IFIFO | 0o644, 0, USER)
    with pytest.raises(InvalidArgument):
        world.vfs.setattr(fifo.ino, SetAttr(size=0))


def test_an_inode_that_is_gone_has_no_attributes(world: World) -> None:
    for call in (world.vfs.getattr, lambda ino: world.vfs.setattr(ino, SetAttr(mode=0))):
        with pytest.raises(NoSuchName):
            call(Ino(99))


def test_truncating_frees_space_and_stat_says_so(world: World) -> None:
    ino = world.create(b"file", os.urandom(100_000))
    assert world.vfs.getattr(ino).blocks == -(-100_000 // 512)
    world.vfs.setattr(ino, SetAttr(size=50_000))
    assert world.vfs.getattr(ino).blocks == -(-50_000 // 512)
    world.vfs.setattr(ino, SetAttr(size=1_000_000))
    assert world.vfs.getattr(ino).blocks == -(-50_000 // 512)


def test_statfs_tells_what_the_store_takes_and_what_its_disk_has_left(world: World) -> None:
    host = os.statvfs(world.path)
    before = world.vfs.statfs()
    world.create(b"one", data := os.urandom(1_000_000))
    world.create(b"two", data)
    after = world.vfs.statfs()
    used = (after.blocks - after.free_blocks) - (before.blocks - before.free_blocks)
    assert 1_000_000 <= used * 4096 <= 1_500_000, "the same bytes twice are there once"
    assert abs(after.free_blocks * 4096 - host.f_bavail * host.f_frsize) < 1 << 30
    assert after.files - after.free_files == 3
