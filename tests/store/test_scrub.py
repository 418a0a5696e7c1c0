"""If these fail, rotten bytes are served as if they were good, or good ones are given up."""

from __future__ import annotations

import itertools
import os
import random
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import Damaged
from dedupfs.core.types import Ino, SegmentId
from dedupfs.store import affected, damage
from dedupfs.store.store import Store
from store.invariants import check, reclaim_all
from vfs.world import USER, World

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from dedupfs.store.affected import DamagedFile
    from dedupfs.store.scrub import Scrub

    Write = Callable[..., None]
    Read = Callable[[int, int], bytes]

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def rot(store: Store, at: int, data: bytes = b"rot", number: int = 0) -> Path:
    """Change bytes of a segment file behind the store's back."""
    path = sorted((store.path / "segments").iterdir())[number]
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
    return path


def scrub(store: Store, *, restart: bool = False, batch: int = 8 * MIB) -> Scrub:
    run = store.scrub(restart=restart)
    while (found := run.take(batch)) is not None:
        with found:
            found.read()
        run.put(found)
    run.finish()
    return run


def write_file(store: Store, ino: int, data: bytes) -> None:
    writer = store.writer(Ino(ino), lambda _txn, _delta: None)
    writer.write(0, data)
    writer.close()


def walked(steps: Generator[None, None, list[DamagedFile]]) -> list[DamagedFile]:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: list[DamagedFile] = end.value
            return found


def damaged_rows(store: Store) -> list[tuple[int, int, int]]:
    with store.index.read() as txn:
        rows = list(damage.every(txn))
    assert store.index.counters.damaged_bytes == sum(stop - start for _id, start, stop in rows)
    return rows


@pytest.mark.parametrize("batch", [1, 100_000, 8 * MIB])
def test_a_sound_store_is_checked_whole(store: Store, write: Write, batch: int) -> None:
    for ino in range(2, 6):
        write(ino, noise(2 * MIB, ino // 2) + noise(100 * ino, ino))
    write(6, noise(100))  # too small for a fingerprint
    progress = scrub(store, batch=batch).progress
    assert progress.checked_bytes + progress.unchecked_bytes == store.index.counters.live_bytes
    assert 0 < progress.unchecked_bytes < 2000
    assert progress.done_bytes == progress.total_bytes
    with store.index.read() as txn:
        assert progress.chunks == txn.rows("chunks")
    assert damaged_rows(store) == []


@pytest.mark.parametrize("batch", [1, 100_000, 8 * MIB])
def test_a_damaged_chunk_reads_as_an_error_once_it_is_known(
    store: Store, write: Write, read: Read, batch: int
) -> None:
    data = noise(4 * MIB)
    write(2, data)
    rot(store, 2 * MIB)
    scrub(store, batch=batch)
    ((_segment, start, stop),) = damaged_rows(store)
    assert start <= 2 * MIB < stop <= start + 256 * 1024
    with pytest.raises(Damaged):
        read(2, len(data))
    assert read(2, start) == data[:start], "only what is damaged is refused"
    assert store.read(Ino(2), stop, 1000).run() == data[stop : stop + 1000]
    with pytest.raises(Damaged):
        store.read(Ino(2), stop - 1, 10)


def test_writing_the_same_bytes_again_heals_all_files(
    store: Store, write: Write, read: Read
) -> None:
    data = noise(4 * MIB)
    write(2, data)
    write(3, b"x" * 1000 + data)
    rot(store, 2 * MIB)
    scrub(store)
    assert damaged_rows(store)
    write(4, data)
    assert damaged_rows(store) == []
    assert store.index.counters.healed_chunks == 1
    assert read(2, len(data)) == read(4, len(data)) == data
    assert read(3, len(data) + 1000)[1000:] == data
    assert store.index.counters.live_bytes == len(data) + 1000, "healed in place, no second copy"
    check(store)
    scrub(store)
    assert damaged_rows(store) == []


@pytest.mark.parametrize("step", [10_000, 70_001, MIB, 3 * MIB])
def test_healing_works_however_the_writer_cuts_its_writes(
    store: Store, write: Write, read: Read, step: int
) -> None:
    data = noise(4 * MIB)
    write(2, data)
    for at in (0, 700_000, MIB, 2 * MIB - 1, 3 * MIB + 5):
        rot(store, at)
    scrub(store)
    write(3, data, step=step)
    assert read(3, len(data)) == read(2, len(data)) == data
    assert damaged_rows(store) == []
    check(store)


def test_damage_that_looks_right_in_memory_is_written_again(
    store: Store, write: Write, read: Read
) -> None:
    """The page cache may still hold good bytes where the disk does not: marked is marked."""
    data = noise(MIB)
    write(2, data)
    with store.index.write() as txn:
        damage.mark(txn, SegmentId(1), 100_000, 100_001)
    write(3, data)
    assert damaged_rows(store) == []
    assert read(2, MIB) == read(3, MIB) == data
    assert store.index.counters.healed_chunks == 1


def test_other_bytes_never_share_with_damaged_ones(store: Store, write: Write, read: Read) -> None:
    data = noise(4 * MIB)
    write(2, data)
    rot(store, 2 * MIB, noise(100, 9))
    scrub(store)
    changed = data[: 2 * MIB - 50_000] + noise(300_000, 8) + data[2 * MIB + 250_000 :]
    write(3, changed)
    assert read(3, len(changed)) == changed
    with pytest.raises(Damaged):
        read(2, len(data))
    check_shares_only(store)


def check_shares_only(store: Store) -> None:
    with pytest.raises(AssertionError, match="not its own"):
        check(store)


def test_a_chunk_found_whole_again_is_no_longer_damaged(
    store: Store, write: Write, read: Read
) -> None:
    data = noise(MIB)
    write(2, data)
    rot(store, 5000, b"rot")
    scrub(store)
    assert damaged_rows(store)
    rot(store, 5000, data[5000:5003])
    scrub(store)
    assert damaged_rows(store) == []
    assert read(2, MIB) == data


def test_freed_bytes_are_no_longer_damaged(store: Store, write: Write) -> None:
    write(2, noise(4 * MIB))
    rot(store, 2 * MIB)
    scrub(store)
    with store.index.write() as txn:
        store.truncate(txn, Ino(2), 2 * MIB + 1)
    rows = damaged_rows(store)
    assert rows
    assert rows[0][2] == 2 * MIB + 1
    with store.index.write() as txn:
        store.drop(txn, Ino(2))
    assert damaged_rows(store) == []
    reclaim_all(store)
    check(store)


@pytest.mark.parametrize("left", [0, 1_000_000])
def test_a_lost_or_short_segment_is_made_whole_by_the_same_bytes(tmp_path: Path, left: int) -> None:
    data = noise(3 * MIB)
    store = Store.open(tmp_path / "s")
    write_file(store, 2, data)
    write_file(store, 3, data[: 2 * MIB])
    store.close()
    (path,) = (tmp_path / "s" / "segments").iterdir()
    if left:
        os.truncate(path, left)
    else:
        path.unlink()
    store = Store.open(tmp_path / "s")
    assert damaged_rows(store) == [(1, left, 3 * MIB)]
    with pytest.raises(Damaged):
        store.read(Ino(2), 0, 3 * MIB).run()
    write_file(store, 4, data[: 2 * MIB])
    with pytest.raises(Damaged):
        store.read(Ino(2), 0, 3 * MIB)
    assert store.read(Ino(4), 0, 2 * MIB).run() == data[: 2 * MIB]
    write_file(store, 5, data)
    assert damaged_rows(store) == []
    for ino, size in ((2, 3 * MIB), (3, 2 * MIB), (4, 2 * MIB), (5, 3 * MIB)):
        assert store.read(Ino(ino), 0, size).run() == data[:size]
    reclaim_all(store)
    check(store)
    store.close()
    store = Store.open(tmp_path / "s")
    assert store.read(Ino(2), 0, 3 * MIB).run() == data
    scrub(store)
    assert damaged_rows(store) == []
    store.close()


def test_a_segment_cut_under_a_live_store_never_reads_as_zeros(
    store: Store, write: Write, read: Read
) -> None:
    data = noise(3 * MIB)
    write(2, data)
    (path,) = (store.path / "segments").iterdir()
    os.truncate(path, 1_000_000)
    with pytest.raises(Damaged):
        read(2, len(data))
    write(3, data[1_500_000:])  # makes the file longer: what is between must not become zeros
    try:
        assert read(2, len(data)) == data
    except Damaged:
        assert damaged_rows(store)
    write(4, data)
    assert read(2, len(data)) == data
    assert damaged_rows(store) == []


def test_scrub_finds_a_segment_that_is_gone(store: Store, write: Write, read: Read) -> None:
    data = noise(2 * MIB)
    write(2, data)
    (path,) = (store.path / "segments").iterdir()
    path.unlink()
    scrub(store)
    assert sum(stop - start for _id, start, stop in damaged_rows(store)) == len(data)
    write(3, data)
    assert read(2, len(data)) == read(3, len(data)) == data


def test_an_interrupted_scrub_goes_on_where_it_was(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    for ino in range(2, 10):
        write_file(store, ino, noise(MIB, ino))
    first = store.scrub()
    for _ in range(3):
        batch = first.take(MIB)
        assert batch is not None
        with batch:
            batch.read()
        first.put(batch)
    done = first.progress
    left = first.take(MIB)  # read but never noted
    assert left is not None
    store.close()
    store = Store.open(tmp_path / "s")
    second = store.scrub()
    assert second.was_resumed
    assert second.progress == done
    assert scrub(store).progress.checked_bytes == 8 * MIB
    assert not store.scrub().was_resumed
    store.close()


def test_what_is_freed_while_it_is_read_is_not_damaged(store: Store, write: Write) -> None:
    write(2, noise(MIB, 2))
    write(3, noise(MIB, 3))
    run = store.scrub()
    batch = run.take()
    assert batch is not None
    with batch:
        with store.index.write() as txn:
            store.drop(txn, Ino(2))
        reclaim_all(store)
        batch.read()
        run.put(batch)
    assert damaged_rows(store) == []
    assert run.progress.chunks > 0
    reclaim_all(store)
    check(store)


def test_what_is_healed_while_it_is_read_is_read_again(store: Store, write: Write) -> None:
    data = noise(MIB)
    write(2, data)
    rot(store, 5000)
    run = store.scrub()
    batch = run.take()
    assert batch is not None
    with batch:
        batch.read()
    write(3, data)
    run.put(batch)
    assert damaged_rows(store) == []
    assert run.progress.chunks == 0, "the batch is to be taken again"
    scrub(store)
    assert damaged_rows(store) == []


def test_an_unreadable_sector_takes_only_its_own_chunk(
    store: Store, write: Write, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(MIB)
    write(2, data)
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if offset <= 500_000 < offset + len(buffers[0]):
            raise OSError(5, "Input/output error")
        return real(fd, buffers, offset, flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        patch.setattr(os, "pread", lambda *_args: (_ for _ in ()).throw(OSError(5, "I/O")))
        scrub(store)
    ((_segment, start, stop),) = damaged_rows(store)
    assert start <= 500_000 < stop <= start + 256 * 1024
    write(3, data)
    assert read(2, MIB) == data


def test_regression_a_medium_error_under_the_follow_pointer_does_not_fail_the_write(
    store: Store, read: Read, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(3 * MIB)
    write(2, data)
    writer = store.writer(Ino(3), lambda _txn, _delta: None)
    writer.write(0, data[:MIB])
    writer.write(MIB, data[MIB : 2 * MIB])

    def bad(*_args: object) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", bad)
        patch.setattr(os, "preadv", bad)
        writer.write(2 * MIB, data[2 * MIB :])
        writer.flush()
    writer.close()
    assert read(3, 3 * MIB) == data


def test_the_files_that_use_damaged_bytes_are_found_by_all_their_names(tmp_path: Path) -> None:
    world = World(tmp_path / "s")
    data = noise(2 * MIB)
    top = world.vfs.mkdir(Ino(1), b"a", 0o755, USER).ino
    inner = world.vfs.mkdir(top, b"b", 0o755, USER).ino
    first = world.create(b"one", data, inner)
    second = world.create(b"two\n\xff", b"x" * 5000 + data)
    world.vfs.link(first, Ino(1), b"also")
    third = world.create(b"other", noise(MIB, 7))
    rot(world.store, MIB)
    scrub(world.store)
    found = walked(affected.files(world.store.index))
    lost = world.store.index.counters.damaged_bytes
    assert found == [
        (first, lost, (b"/a/b/one", b"/also")),
        (second, lost, (b"/two\n\xff",)),
    ]
    assert third not in {file.ino for file in found}
    world.vfs.close()
    world.store.close()


def test_marks_join_and_split(store: Store) -> None:
    segment = SegmentId(7)
    expected: set[int] = set()
    chance = random.Random(5)
    for _ in range(300):
        start = chance.randrange(60)
        stop = start + chance.randrange(20)
        with store.index.write() as txn:
            if chance.random() < 0.6:
                damage.mark(txn, segment, start, stop)
                expected |= set(range(start, stop))
            else:
                damage.clear(txn, segment, start, stop)
                expected -= set(range(start, stop))
        rows = damaged_rows(store)
        assert {at for _id, low, high in rows for at in range(low, high)} == expected
        assert all(left[2] < right[1] for left, right in itertools.pairwise(rows))
        with store.index.read() as txn:
            found = damage.overlapping(txn, segment, 30, 40)
        assert bool(found) == bool(expected & set(range(30, 40)))


def test_verified_reads_find_what_rotted(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s", verify_reads=True)
    data = noise(2 * MIB)
    write_file(store, 2, data)
    plan = store.read(Ino(2), 0, MIB)
    assert plan.try_now() is None, "not checked yet"
    with plan:
        assert plan.run() == data[:MIB]
    store.note_read(plan)
    assert store.read(Ino(2), 0, MIB).try_now() == data[:MIB], "checked and warm"
    rot(store, 1_500_000)
    bad = store.read(Ino(2), MIB, MIB)
    assert bad.try_now() is None
    with bad, pytest.raises(Damaged):
        bad.run()
    store.note_read(bad)
    ((_segment, start, stop),) = damaged_rows(store)
    assert start <= 1_500_000 < stop
    with pytest.raises(Damaged):
        store.read(Ino(2), MIB, MIB)
    store.close()


def test_affected_files_of_a_sound_store_are_none(store: Store) -> None:
    assert walked(affected.files(store.index)) == []
