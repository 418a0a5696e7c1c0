"""Names: a user would lose files, or get names that lead nowhere."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import (
    InvalidArgument,
    IsADirectory,
    NameExists,
    NameTooLong,
    NoSuchName,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    TooManyLinks,
)
from dedupfs.core.types import ROOT_INO
from dedupfs.store import namespace
from dedupfs.vfs.attributes import Owner, SetAttr
from dedupfs.vfs.names import LINKS_MAX
from vfs.world import USER

if TYPE_CHECKING:
    from vfs.world import World


def test_a_new_store_has_an_empty_root(world: World) -> None:
    root = world.vfs.getattr(ROOT_INO).inode
    assert stat.S_ISDIR(root.mode)
    assert (root.nlink, root.size, root.parent) == (2, 4096, ROOT_INO)
    assert world.names() == []


def test_every_file_type_is_kept_over_a_restart(world: World) -> None:
    kinds = {b"reg": stat.S_IFREG, b"fifo": stat.S_IFIFO, b"sock": stat.S_IFSOCK}
    for name, kind in kinds.items():
        world.vfs.mknod(ROOT_INO, name, kind | 0o640, 0, USER)
    world.vfs.mknod(ROOT_INO, b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3), USER)
    world.vfs.mknod(ROOT_INO, b"disk", stat.S_IFBLK | 0o660, os.makedev(8, 1), USER)
    world.vfs.mkdir(ROOT_INO, b"dir", 0o750, USER)
    world.vfs.symlink(ROOT_INO, b"link", b"over/there", USER)
    world.reopen()
    for name, kind in kinds.items():
        found = world.look(name)
        assert found.inode.mode == kind | 0o640
        assert (found.inode.uid, found.inode.gid) == USER[:2]
    assert world.look(b"null").inode.rdev == os.makedev(1, 3)
    assert world.look(b"disk").inode.rdev == os.makedev(8, 1)
    assert world.look(b"dir").inode.mode == stat.S_IFDIR | 0o750
    link = world.look(b"link")
    assert (link.inode.mode, link.inode.size) == (stat.S_IFLNK | 0o777, 10)
    assert world.vfs.readlink(link.ino) == b"over/there"


def test_making_what_exists_is_refused_and_leaves_it_alone(world: World) -> None:
    ino = world.create(b"a", b"content")
    directory = world.mkdir(b"d")
    before = world.rows("inodes")
    for call in (
        lambda: world.vfs.mknod(ROOT_INO, b"a", stat.S_IFREG | 0o644, 0, USER),
        lambda: world.vfs.mkdir(ROOT_INO, b"a", 0o755, USER),
        lambda: world.vfs.symlink(ROOT_INO, b"a", b"t", USER),
        lambda: world.vfs.link(directory and ino, ROOT_INO, b"d"),
        lambda: world.vfs.create(ROOT_INO, b"a", 0o644, USER, os.O_RDWR | os.O_EXCL),
    ):
        with pytest.raises(NameExists):
            call()
    assert world.rows("inodes") == before
    assert world.look(b"a").inode.size == 7


def test_names_take_255_bytes_of_any_value_and_no_more(world: World) -> None:
    longest = bytes(range(1, 256)).replace(b"/", b"_")
    ino = world.create(longest)
    assert world.look(longest).ino == ino
    assert world.names() == [longest]
    too_long = b"x" * 256
    directory = world.mkdir(b"d")
    for call in (
        lambda: world.vfs.lookup(ROOT_INO, too_long),
        lambda: world.vfs.mknod(ROOT_INO, too_long, stat.S_IFREG, 0, USER),
        lambda: world.vfs.mkdir(ROOT_INO, too_long, 0o755, USER),
        lambda: world.vfs.symlink(ROOT_INO, too_long, b"t", USER),
        lambda: world.vfs.link(ino, ROOT_INO, too_long),
        lambda: world.vfs.unlink(ROOT_INO, too_long),
        lambda: world.vfs.rmdir(ROOT_INO, too_long),
        lambda: world.vfs.rename(ROOT_INO, too_long, directory, b"x"),
        lambda: world.vfs.rename(ROOT_INO, longest, directory, too_long),
        lambda: world.vfs.create(ROOT_INO, too_long, 0o644, USER, os.O_RDWR),
    ):
        with pytest.raises(NameTooLong):
            call()


def test_a_symlink_target_takes_4095_bytes(world: World) -> None:
    made = world.vfs.symlink(ROOT_INO, b"long", b"t" * 4095, USER)
    assert world.vfs.readlink(made.ino) == b"t" * 4095
    with pytest.raises(NameTooLong):
        world.vfs.symlink(ROOT_INO, b"longer", b"t" * 4096, USER)


def test_only_symlinks_have_a_target(world: World) -> None:
    with pytest.raises(InvalidArgument):
        world.vfs.readlink(world.create(b"a"))


def test_directory_links_count_its_subdirectories(world: World) -> None:
    top = world.mkdir(b"top")
    world.mkdir(b"one", top)
    world.mkdir(b"two", top)
    world.create(b"file", parent=top)
    assert world.vfs.getattr(top).inode.nlink == 4
    world.vfs.rmdir(top, b"one")
    assert world.vfs.getattr(top).inode.nlink == 3
    assert world.vfs.getattr(ROOT_INO).inode.nlink == 3


def test_a_setgid_directory_hands_its_group_down(world: World) -> None:
    top = world.mkdir(b"top")
    world.vfs.setattr(top, SetAttr(mode=0o2775, gid=777))
    world.vfs.setattr(top, SetAttr(mode=0o2775))
    other = Owner(5, 5)
    made = world.vfs.mknod(top, b"file", stat.S_IFREG | 0o644, 0, other)
    assert (made.inode.uid, made.inode.gid) == (5, 777)
    below = world.vfs.mkdir(top, b"below", 0o755, other)
    assert (below.inode.gid, stat.S_IMODE(below.inode.mode)) == (777, 0o2755)
    deeper = world.vfs.mkdir(below.ino, b"deeper", 0o755, other)
    assert (deeper.inode.gid, stat.S_IMODE(deeper.inode.mode)) == (777, 0o2755)


async def test_hard_links_share_content_and_outlive_each_other(world: World) -> None:
    ino = world.create(b"a", b"shared")
    directory = world.mkdir(b"d")
    linked = world.vfs.link(ino, directory, b"b")
    world.vfs.forget([(ino, 1)])
    assert (linked.ino, linked.inode.nlink) == (ino, 2)
    world.vfs.unlink(ROOT_INO, b"a")
    world.reopen()
    assert world.look(b"b", directory).inode.nlink == 1
    assert await world.content(ino) == b"shared"
    world.vfs.unlink(directory, b"b")
    assert world.rows("extents") == 0


def test_links_end_at_the_limit_of_ext4(world: World) -> None:
    ino = world.create(b"a")
    with world.store.index.write() as txn:
        inode = namespace.get_inode(txn, ino)
        inode.nlink = LINKS_MAX - 1
        namespace.put_inode(txn, ino, inode)
    world.vfs.link(ino, ROOT_INO, b"last")
    with pytest.raises(TooManyLinks):
        world.vfs.link(ino, ROOT_INO, b"over")
    assert not world.exists(b"over")
    with world.store.index.write() as txn:
        inode.nlink = 2  # what it has, for the check at the end
        namespace.put_inode(txn, ino, inode)


def test_directories_have_no_hard_links(world: World) -> None:
    with pytest.raises(NotPermitted):
        world.vfs.link(world.mkdir(b"d"), ROOT_INO, b"e")


def test_unlink_and_rmdir_refuse_the_other_kind(world: World) -> None:
    world.create(b"file")
    world.mkdir(b"dir")
    with pytest.raises(IsADirectory):
        world.vfs.unlink(ROOT_INO, b"dir")
    with pytest.raises(NotADirectory):
        world.vfs.rmdir(ROOT_INO, b"file")
    for call in (world.vfs.unlink, world.vfs.rmdir):
        with pytest.raises(NoSuchName):
            call(ROOT_INO, b"none")
    assert sorted(world.names()) == [b"dir", b"file"]


def test_a_directory_with_entries_stays(world: World) -> None:
    top = world.mkdir(b"top")
    world.create(b"file", parent=top)
    with pytest.raises(NotEmpty):
        world.vfs.rmdir(ROOT_INO, b"top")
    assert world.names(top) == [b"file"]


def test_nothing_can_be_made_in_a_removed_directory(world: World) -> None:
    """Else files would be stored that no path leads to."""
    made = world.vfs.mkdir(ROOT_INO, b"gone", 0o755, USER)
    world.create(b"file")
    world.vfs.rmdir(ROOT_INO, b"gone")
    gone = made.ino
    assert world.vfs.getattr(gone).inode.nlink == 0
    for call in (
        lambda: world.vfs.mknod(gone, b"x", stat.S_IFREG, 0, USER),
        lambda: world.vfs.mkdir(gone, b"x", 0o755, USER),
        lambda: world.vfs.create(gone, b"x", 0o644, USER, os.O_RDWR),
        lambda: world.vfs.rename(ROOT_INO, b"file", gone, b"file"),
        lambda: world.vfs.lookup(gone, b"x"),
    ):
        with pytest.raises(NoSuchName):
            call()
    assert world.names() == [b"file"]


def test_nothing_can_be_made_under_a_file(world: World) -> None:
    ino = world.create(b"file")
    with pytest.raises(NotADirectory):
        world.vfs.mkdir(ino, b"x", 0o755, USER)


def test_dot_and_dot_dot_lead_where_they_should(world: World) -> None:
    """An NFS server asks for them."""
    top = world.mkdir(b"top")
    below = world.mkdir(b"below", top)
    assert world.look(b".", below).ino == below
    assert world.look(b"..", below).ino == top
    assert world.look(b"..", ROOT_INO).ino == ROOT_INO


def test_names_change_the_times_of_their_directory(world: World) -> None:
    """make and rsync go by them."""
    top = world.mkdir(b"top")

    def times() -> tuple[int, int]:
        inode = world.vfs.getattr(top).inode
        assert inode.mtime_ns == inode.ctime_ns
        return inode.mtime_ns, inode.atime_ns

    seen = [times()]
    ino = world.create(b"a", parent=top)
    seen.append(times())
    world.vfs.link(ino, top, b"b")
    seen.append(times())
    world.vfs.unlink(top, b"a")
    seen.append(times())
    world.mkdir(b"d", top)
    seen.append(times())
    world.vfs.rmdir(top, b"d")
    seen.append(times())
    assert [mtime for mtime, _ in seen] == sorted({mtime for mtime, _ in seen})
    assert len({atime for _, atime in seen}) == 1


def test_link_and_unlink_change_only_the_status_time_of_the_file(world: World) -> None:
    ino = world.create(b"a", b"x")
    before = world.vfs.getattr(ino).inode
    linked = world.vfs.link(ino, ROOT_INO, b"b").inode
    world.vfs.unlink(ROOT_INO, b"a")
    after = world.vfs.getattr(ino).inode
    assert before.ctime_ns < linked.ctime_ns < after.ctime_ns
    assert before.mtime_ns == after.mtime_ns
