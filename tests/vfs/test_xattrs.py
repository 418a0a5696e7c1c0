"""Extended attributes: labels would be lost, or what a file shares be misstated."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import (
    InvalidArgument,
    NameTooLong,
    NoSuchAttribute,
    NoSuchName,
    NotPermitted,
    NotSupported,
)
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.vfs.xattrs import COMPUTED
from vfs.world import USER

if TYPE_CHECKING:
    from vfs.world import World


def test_values_are_kept_and_go_with_their_inode(world: World) -> None:
    ino = world.create(b"file")
    other = world.create(b"other")
    values = {
        b"user.a": b"",
        b"user.b": os.urandom(65_536),
        b"trusted.c": b"x",
        b"security.d": b"y",
    }
    for name, value in values.items():
        world.vfs.setxattr(ino, name, value)
    world.vfs.setxattr(ino, b"user.a", b"again")
    world.reopen()
    assert world.vfs.getxattr(ino, b"user.a") == b"again"
    assert world.vfs.getxattr(ino, b"user.b") == values[b"user.b"]
    assert sorted(world.vfs.listxattr(ino, privileged=True)) == sorted(values)
    assert b"trusted.c" not in world.vfs.listxattr(ino, privileged=False)
    assert world.vfs.listxattr(other, privileged=True) == []
    world.vfs.removexattr(ino, b"user.b")
    with pytest.raises(NoSuchAttribute):
        world.vfs.getxattr(ino, b"user.b")
    with pytest.raises(NoSuchAttribute):
        world.vfs.removexattr(ino, b"user.b")
    world.vfs.unlink(ROOT_INO, b"file")
    assert world.rows("xattrs") == 0


def test_names_end_at_255_bytes_and_need_a_namespace(world: World) -> None:
    ino = world.create(b"file")
    longest = b"user." + b"x" * 250
    world.vfs.setxattr(ino, longest, b"1")
    assert world.vfs.listxattr(ino, privileged=False) == [longest]
    for name, error in (
        (longest + b"x", NameTooLong),
        (b"user.", InvalidArgument),
        (b"system.posix_acl_access", NotSupported),
        (b"nonsense", NotSupported),
    ):
        for call in (
            lambda name=name: world.vfs.setxattr(ino, name, b"1"),
            lambda name=name: world.vfs.getxattr(ino, name),
            lambda name=name: world.vfs.removexattr(ino, name),
        ):
            with pytest.raises(error):
                call()


def test_changes_show_in_ctime_only(world: World) -> None:
    ino = world.create(b"file")
    before = world.vfs.getattr(ino).inode
    world.vfs.setxattr(ino, b"user.a", b"1")
    between = world.vfs.getattr(ino).inode
    world.vfs.removexattr(ino, b"user.a")
    after = world.vfs.getattr(ino).inode
    assert before.ctime_ns < between.ctime_ns < after.ctime_ns
    assert before.mtime_ns == after.mtime_ns


def test_an_inode_that_is_gone_takes_no_attributes(world: World) -> None:
    """Its rows would never be removed."""
    with pytest.raises(NoSuchName):
        world.vfs.setxattr(Ino(99), b"user.a", b"1")
    assert world.rows("xattrs") == 0


def test_a_file_says_what_it_shares(world: World) -> None:
    data = os.urandom(200_000)
    one = world.create(b"one", data)

    def usage(ino: Ino) -> dict[str, int]:
        return {
            name.decode().rpartition(".")[2]: int(world.vfs.getxattr(ino, name))
            for name in COMPUTED
        }

    alone = {"logical": 200_000, "physical_share": 200_000, "exclusive": 200_000, "extents": 1}
    assert usage(one) == alone
    two = world.create(b"two", data)
    shared = {"logical": 200_000, "physical_share": 100_000, "exclusive": 0, "extents": 1}
    assert usage(one) == usage(two) == shared
    assert usage(world.create(b"empty")) == dict.fromkeys(alone, 0)


def test_what_is_still_in_memory_counts(world: World) -> None:
    made, handle = world.vfs.create(ROOT_INO, b"file", 0o644, USER, os.O_RDWR)
    world.vfs.write(handle, 0, b"x" * 5000)
    assert world.vfs.getxattr(made.ino, b"user.dedupfs.logical") == b"5000"
    world.vfs.release(handle)


def test_computed_attributes_are_not_listed_and_not_to_be_changed(world: World) -> None:
    """`cp -a` and `rsync -X` would try to copy them."""
    ino = world.create(b"file", b"x")
    assert world.vfs.listxattr(ino, privileged=True) == []
    for name in (*COMPUTED, b"user.dedupfs.new"):
        with pytest.raises(NotPermitted):
            world.vfs.setxattr(ino, name, b"1")
        with pytest.raises(NotPermitted):
            world.vfs.removexattr(ino, name)
    with pytest.raises(NoSuchAttribute):
        world.vfs.getxattr(ino, b"user.dedupfs.new")
    with pytest.raises(NoSuchAttribute):
        world.vfs.getxattr(world.mkdir(b"dir"), b"user.dedupfs.logical")
