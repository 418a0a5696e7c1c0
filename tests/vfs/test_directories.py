"""Listing: `rm -r`, `cp -r` and cache clean-ups miss files when a listing is wrong."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import BadHandle, NotADirectory
from dedupfs.core.types import ROOT_INO
from vfs.world import USER

if TYPE_CHECKING:
    from vfs.world import World


def test_a_listing_starts_with_itself_and_its_parent(world: World) -> None:
    top = world.mkdir(b"top")
    below = world.mkdir(b"below", top)
    handle = world.vfs.opendir(below)
    found = list(world.vfs.readdir(handle, 0))
    assert [(e.name, e.attributes.ino, e.is_lookup) for e in found] == [
        (b".", below, False),
        (b"..", top, False),
    ]
    handle = world.vfs.opendir(ROOT_INO)
    dots = list(world.vfs.readdir(handle, 0))[:2]
    assert {entry.attributes.ino for entry in dots} == {ROOT_INO}


def test_entries_come_with_their_attributes_and_types(world: World) -> None:
    world.create(b"file", b"12345")
    world.vfs.symlink(ROOT_INO, b"link", b"file", USER)
    handle = world.vfs.opendir(ROOT_INO)
    found = {entry.name: entry.attributes for entry in world.vfs.readdir(handle, 2)}
    assert found[b"file"].inode.size == 5
    assert stat.S_ISLNK(found[b"link"].inode.mode)


def test_reading_on_from_any_cookie_gives_the_rest(world: World) -> None:
    for number in range(20):
        world.create(b"%d" % number)
    handle = world.vfs.opendir(ROOT_INO)
    whole = list(world.vfs.readdir(handle, 0))
    for at, entry in enumerate(whole):
        rest = list(world.vfs.readdir(handle, entry.cookie))
        assert [e.name for e in rest] == [e.name for e in whole[at + 1 :]]


def test_removing_while_listing_misses_nothing(world: World) -> None:
    """`rm -r` reads a part, removes it, reads on."""
    for number in range(100):
        world.create(b"%d" % number)
    handle = world.vfs.opendir(ROOT_INO)
    cookie, seen = 2, []
    while True:
        part = [e for _, e in zip(range(7), world.vfs.readdir(handle, cookie), strict=False)]
        if not part:
            break
        for entry in part:
            seen.append(entry.name)
            world.vfs.unlink(ROOT_INO, entry.name)
        cookie = part[-1].cookie
    assert len(seen) == len(set(seen)) == 100
    assert world.names() == []


def test_renaming_while_listing_comes_to_an_end(world: World) -> None:
    """`for f in *; mv $f $f.bak`: each file once, not for ever."""
    for number in range(10):
        world.create(b"%d" % number)
    handle = world.vfs.opendir(ROOT_INO)
    cookie, seen = 2, 0
    while (entry := next(iter(world.vfs.readdir(handle, cookie)), None)) is not None:
        world.vfs.rename(ROOT_INO, entry.name, ROOT_INO, entry.name + b".bak")
        cookie, seen = entry.cookie, seen + 1
        assert seen <= 10
    assert seen == 10
    assert len(world.names()) == 10


def test_rewinding_shows_what_came_since(world: World) -> None:
    handle = world.vfs.opendir(ROOT_INO)
    world.create(b"late")
    assert [entry.name for entry in world.vfs.readdir(handle, 0)] == [b".", b"..", b"late"]


def test_a_replaced_entry_keeps_its_place(world: World) -> None:
    """Saving a file by rename must not hide it from a listing under way."""
    world.create(b"file")
    world.create(b"last")
    handle = world.vfs.opendir(ROOT_INO)
    world.create(b"file.tmp")
    world.vfs.rename(ROOT_INO, b"file.tmp", ROOT_INO, b"file")
    assert [entry.name for entry in world.vfs.readdir(handle, 2)] == [b"file", b"last"]


def test_a_hundred_thousand_entries_are_listed_in_parts(world: World) -> None:
    count = 100_000
    with world.vfs._inodes.change() as change:
        from dedupfs.vfs import names  # noqa: PLC0415

        for number in range(count):
            inode = names.new_inode(change, stat.S_IFREG | 0o644, USER)
            names.make(change, ROOT_INO, b"%d" % number, inode)
    handle = world.vfs.opendir(ROOT_INO)
    started = time.monotonic()
    cookie, seen = 2, 0
    while True:
        part = [
            e.cookie for _, e in zip(range(25), world.vfs.readdir(handle, cookie), strict=False)
        ]
        if not part:
            break
        seen += len(part)
        cookie = part[-1]
    assert seen == count
    assert time.monotonic() - started < 20, "each part must start where the last ended"


def test_only_directories_are_listed(world: World) -> None:
    with pytest.raises(NotADirectory):
        world.vfs.opendir(world.create(b"file"))


async def test_a_closed_listing_is_refused(world: World) -> None:
    handle = world.vfs.opendir(ROOT_INO)
    world.vfs.releasedir(handle)
    with pytest.raises(BadHandle):
        list(world.vfs.readdir(handle, 0))
    with pytest.raises(BadHandle):
        world.vfs.releasedir(handle)
    with pytest.raises(BadHandle):
        await world.vfs.fsyncdir(handle)


def test_a_removed_directory_can_still_be_listed_by_who_holds_it(world: World) -> None:
    made = world.vfs.mkdir(ROOT_INO, b"dir", 0o755, USER)
    handle = world.vfs.opendir(made.ino)
    world.vfs.rmdir(ROOT_INO, b"dir")
    assert [entry.name for entry in world.vfs.readdir(handle, 0)] == [b".", b".."]
    world.vfs.releasedir(handle)


def test_a_listing_shows_open_files_as_they_are_now(world: World) -> None:
    made, handle = world.vfs.create(ROOT_INO, b"file", 0o644, USER, os.O_RDWR)
    world.vfs.write(handle, 0, b"123")
    listing = world.vfs.opendir(ROOT_INO)
    (entry,) = world.vfs.readdir(listing, 2)
    assert (entry.attributes.ino, entry.attributes.inode.size) == (made.ino, 3)
