"""If these fail, removed files keep their space, or bytes still read are taken away."""

from __future__ import annotations

import mmap
import random
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.types import Ino
from dedupfs.store.store import Store
from store.invariants import check, reclaim_all

if TYPE_CHECKING:
    from pathlib import Path

    from store.fixtures import Read, Write

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def remove(store: Store, ino: int) -> None:
    with store.index.write() as txn:
        store.drop(txn, Ino(ino))


def test_the_last_user_takes_the_segment_file_along(store: Store, write: Write) -> None:
    data = noise(3 * MIB)
    write(2, data)
    write(3, data)
    remove(store, 2)
    reclaim_all(store)
    assert store.index.counters.allocated_bytes == len(data)
    remove(store, 3)
    assert store.index.counters.pending_free_bytes == len(data)
    reclaim_all(store)
    assert list((store.path / "segments").iterdir()) == []
    assert store.index.counters.pending_free_bytes == 0
    check(store)


def test_truncation_punches_the_pages_behind(store: Store, write: Write, read: Read) -> None:
    data = noise(3 * MIB)
    write(2, data)
    with store.index.write() as txn:
        assert store.truncate(txn, Ino(2), MIB + 5) == MIB + 5 - len(data)
    reclaim_all(store)
    assert store.index.counters.allocated_bytes == MIB + 4096
    assert read(2, MIB + 5) == data[: MIB + 5]
    check(store)


def test_a_page_goes_with_the_last_of_its_small_files(
    store: Store, write: Write, read: Read
) -> None:
    files = [noise(1000, seed) for seed in range(40)]
    for number, content in enumerate(files):
        write(2 + number, content)
    for number in range(40):
        if number not in {10, 39}:
            remove(store, 2 + number)
    reclaim_all(store)
    assert store.index.counters.allocated_bytes <= 4 * 4096
    assert (read(12, 1000), read(41, 1000)) == (files[10], files[39])
    check(store)


def test_bytes_shared_again_before_the_punch_are_kept(
    store: Store, write: Write, read: Read
) -> None:
    data = noise(2 * MIB)
    follower = store.writer(Ino(3), lambda _txn, _delta: None)
    write(2, data)
    follower.write(0, data[:MIB])
    follower.flush()
    remove(store, 2)
    follower.write(MIB, data[MIB:])  # follows into what has just been freed
    follower.close()
    assert store.index.counters.live_bytes == len(data)
    reclaim_all(store)
    assert read(3, len(data)) == data
    check(store)


def test_bytes_being_read_are_not_punched(store: Store, write: Write) -> None:
    data = noise(2 * MIB)
    write(2, data)
    write(3, noise(100, 2))
    plan = store.read(Ino(2), 0, len(data))
    with plan:
        remove(store, 2)
        reclaim_all(store)
        assert bytes(plan.run()) == data
    reclaim_all(store)
    check(store)


def test_freed_chunks_are_not_found_again(store: Store, write: Write, read: Read) -> None:
    data = noise(2 * MIB)
    write(2, data)
    remove(store, 2)
    write(3, data)
    reclaim_all(store)
    assert read(3, len(data)) == data
    assert store.index.counters.allocated_bytes == len(data)
    check(store)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_in_use_is_lost_in_a_storm_of_removals(
    store: Store, write: Write, read: Read, seed: int
) -> None:
    chance = random.Random(seed)
    sources = [noise(600_000, 50 + n) for n in range(3)]
    files: dict[int, bytes] = {}
    for step in range(150):
        ino = chance.randrange(2, 14)
        if ino in files and chance.random() < 0.5:
            remove(store, ino)
            del files[ino]
        else:
            source = chance.choice(sources)
            start = chance.randrange(len(source))
            if ino in files:
                remove(store, ino)
            files[ino] = source[start : start + chance.randrange(1, 600_000)]
            write(ino, files[ino])
        if step % 10 == 0:
            doomed, _more = store.reclaim()
            for path in doomed:
                path.unlink()
    reclaim_all(store)
    check(store)
    for ino, content in files.items():
        assert read(ino, len(content)) == content


def test_what_was_mapped_before_a_restart_is_not_punched(tmp_path: Path) -> None:
    """A map of a file read past us keeps neither the mount busy nor the daemon from being replaced."""
    data = noise(4 * MIB)

    def open_store() -> Store:
        return Store.open(tmp_path / "store")

    def change(store: Store) -> None:
        write_file(store, 4, b"small")
        remove(store, 4)
        reclaim_all(store)

    store = open_store()
    write_file(store, 2, data)
    write_file(store, 3, data[:MIB])
    store.close()
    (segment,) = (tmp_path / "store" / "segments").iterdir()
    with segment.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with mapped:
        store = open_store()
        remove(store, 2)
        reclaim_all(store)
        store.close()
        store = open_store()
        change(store)
        assert mapped[:] == data
    change(store)
    assert store.index.counters.allocated_bytes == MIB, "punched when it was let go"
    store.close()


def write_file(store: Store, ino: int, data: bytes) -> None:
    writer = store.writer(Ino(ino), lambda _txn, _delta: None)
    writer.write(0, data)
    writer.close()
