"""Accounts of units and folders, against a count of each byte: what people decide removals by."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.format import unpack_extent, unpack_pair
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import accounting, namespace, walking
from dedupfs.store.accounting import Account, Accounts
from dedupfs.store.walking import Place, Stopped, Tables, Walk
from vfs.world import USER, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Byte = tuple[int, int]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "store")
    yield made
    made.close()


def tables(world: World) -> Tables:
    world.store.index.fold()
    with world.store.index.snapshot() as txn:
        return Tables.read(txn, Walk(pause_s=0))


def named(world: World, accounts: Accounts) -> dict[bytes, Account]:
    with world.store.index.read() as txn:
        found = [accounts[node] for node in range(1, len(accounts) + 1)]
        return {walking.name_of(txn, one.place) or b"": one for one in found}


def bytes_by_inode(world: World) -> dict[int, list[Byte]]:
    found: dict[int, list[Byte]] = {}
    with world.store.index.read() as txn:
        for key, value in txn.scan("extents", b""):
            extent = unpack_extent(key, value)
            found.setdefault(unpack_pair(key)[0], []).extend(
                (extent.segment, extent.segment_offset + at) for at in range(extent.length)
            )
    return found


def paths_by_inode(world: World) -> dict[int, list[bytes]]:
    """Return the paths of all files, by a walk from the root."""
    found: dict[int, list[bytes]] = {}

    def walk(folder: Ino, path: bytes) -> None:
        for entry in list(namespace.entries(txn, folder, start=0, stop=1 << 62)):
            inode = namespace.get_inode(txn, entry.ino)
            if inode.parent:
                walk(entry.ino, path + entry.name + b"/")
            else:
                found.setdefault(entry.ino, []).append(path + entry.name)

    with world.store.index.read() as txn:
        walk(ROOT_INO, b"")
    return found


def check(world: World, accounts: Accounts) -> dict[bytes, Account]:
    """Assert that all accounts are what counting bytes gives; return them."""
    content, paths = bytes_by_inode(world), paths_by_inode(world)
    found = named(world, accounts)
    for path, account in found.items():

        def is_below(one: bytes, path: bytes = path) -> bool:
            return not path or one == path or one.startswith(path + b"/")

        inside = [ino for ino, names in paths.items() if any(map(is_below, names))]
        removed = [ino for ino in inside if all(map(is_below, paths[ino]))]
        outside = {byte for ino in content if ino not in removed for byte in content[ino]}
        used = {byte for ino in inside for byte in content.get(ino, [])}
        assert account.files == len(inside), path
        assert account.logical_bytes == sum(len(content.get(ino, [])) for ino in inside), path
        assert account.exclusive_bytes == len(used - outside), path
        assert account.shared_bytes == len(used & outside), path
        pages = {(segment, at // 4096) for segment, at in used - outside}
        pages -= {(segment, at // 4096) for segment, at in outside}
        assert account.freed_bytes == len(pages) * 4096, path
    assert accounts.stored_bytes == len({byte for some in content.values() for byte in some})
    return found


def grow(world: World, seed: int) -> None:
    """Make a random tree of files that share blocks, with hard links and files without a name."""
    pick = random.Random(seed)
    blocks = [pick.randbytes(4096) for _ in range(6)]
    folders = [ROOT_INO]
    for number in range(8):
        folders.append(world.mkdir(b"d%d" % number, pick.choice(folders)))
    for number in range(16):
        data = b"".join(pick.choices(blocks, k=pick.randrange(3)))
        data += pick.randbytes(pick.choice([0, 10, 3000]))
        ino = world.create(b"f%d" % number, data, pick.choice(folders))
        if number % 4 == 0:
            world.vfs.link(ino, pick.choice(folders), b"l%d" % number)
            world.vfs.forget([(ino, 1)])
    for number in range(2):
        made, handle = world.vfs.create(ROOT_INO, b"gone%d" % number, 0o600, USER, os.O_RDWR)
        world.vfs.write(handle, 0, blocks[number])
        world.vfs.flush(handle)
        world.vfs.unlink(ROOT_INO, b"gone%d" % number)
        world.vfs.forget([(made.ino, 1)])


@pytest.mark.parametrize("seed", range(2))
def test_random_trees(world: World, seed: int) -> None:
    grow(world, seed)
    read = tables(world)
    for depth in (1, 3):
        found = check(world, Accounts(read, walking.units(read, depth)))
        assert all(path.count(b"/") < depth for path in found)
        assert all(path.count(b"/") == depth - 1 or not found[path].is_folder for path in found)
    for depth in (0, 9):
        check(world, Accounts(read, walking.below(read, [Place(0, 0)], depth)))
    with world.store.index.read() as txn:
        asked = [walking.find_place(txn, b"d0"), walking.find_place(txn, b"d1")]
    found = check(world, Accounts(read, walking.below(read, [one for one in asked if one], 1)))
    assert b"d0" in found


def test_four_ranks_share_all_but_their_own(world: World) -> None:
    shared = random.Random(1).randbytes(300_000)
    for rank in range(4):
        folder = world.mkdir(b"rank%d" % rank)
        world.create(b"data", bytes([rank + 1]) * 5000 + shared, folder)
    read = tables(world)
    accounts = Accounts(read, walking.units(read, 1))
    found = check(world, accounts)
    assert all(one.logical_bytes == 305_000 for one in found.values())
    assert all(one.exclusive_bytes < 20_000 for one in found.values())
    partners = accounts.partners(1, 10)
    assert sorted(node for node, _ in partners) == [2, 3, 4]
    assert all(280_000 < size <= 300_000 for _, size in partners)
    assert len(accounts.partners(2, 1)) == 1


def test_a_file_linked_into_two_units_counts_in_both_and_is_freed_by_neither(world: World) -> None:
    one, other = world.mkdir(b"one"), world.mkdir(b"other")
    ino = world.create(b"f", random.Random(2).randbytes(50_000), one)
    world.vfs.link(ino, other, b"f")
    read = tables(world)
    found = check(world, Accounts(read, walking.units(read, 1)))
    for path in (b"one", b"other"):
        assert (found[path].logical_bytes, found[path].exclusive_bytes) == (50_000, 0)
        assert found[path].shared_bytes == 50_000
    whole = check(world, Accounts(read, walking.below(read, [Place(0, 0)], 0)))
    assert whole[b""].logical_bytes == whole[b""].exclusive_bytes == 50_000


def test_what_an_open_file_without_a_name_uses_is_not_freed(world: World) -> None:
    data = random.Random(3).randbytes(80_000)
    folder = world.mkdir(b"unit")
    world.create(b"f", data, folder)
    made, handle = world.vfs.create(ROOT_INO, b"gone", 0o600, USER, os.O_RDWR)
    world.vfs.write(handle, 0, data)
    world.vfs.flush(handle)
    world.vfs.unlink(ROOT_INO, b"gone")
    read = tables(world)
    found = check(world, Accounts(read, walking.units(read, 1)))
    assert found[b"unit"].exclusive_bytes < 1000
    assert accounting.sharers(read, made.ino, 5).files[0][1] > 79_000
    world.vfs.release(handle)
    world.vfs.forget([(made.ino, 1)])


def test_the_files_that_share_with_one(world: World) -> None:
    pick = random.Random(4)
    first, second = pick.randbytes(100_000), pick.randbytes(200_000)
    asked = world.create(b"asked", first + second)
    world.create(b"a", first)
    world.create(b"b", second)
    world.create(b"c", pick.randbytes(9_000))
    world.create(b"d", first + second)
    read = tables(world)
    found, count = accounting.sharers(read, asked, 2)
    assert count == 3
    content = bytes_by_inode(world)
    with world.store.index.read() as txn:
        names = {}
        for place, size in found:
            assert place is not None
            names[walking.name_of(txn, place)] = size
    assert list(names) == [b"d", b"b"]
    want = Counter({ino: len({*content[ino]} & {*content[asked]}) for ino in content})
    assert sorted(names.values()) == sorted(size for ino, size in want.most_common(3)[1:])


def test_a_walk_can_be_stopped_and_says_how_far_it_is(world: World) -> None:
    grow(world, 9)
    world.store.index.fold()
    walk = Walk(pause_s=0)
    with world.store.index.snapshot() as txn:
        Tables.read(txn, walk)
        assert walk.done == walk.total > 50
        walk.stop()
        with pytest.raises(Stopped):
            Tables.read(txn, walk)


def test_an_empty_store(world: World) -> None:
    read = tables(world)
    accounts = Accounts(read, walking.units(read, 1))
    assert len(accounts) == accounts.stored_bytes == 0
    assert accounting.sharers(read, ROOT_INO, 5) == ([], 0)
