"""If these fail, ranks pay for each other's bytes again, or read back what they did not write."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedupfs.core import chunking
from dedupfs.core.errors import NoSpace
from dedupfs.core.types import Ino
from dedupfs.store import writer as writer_module
from dedupfs.store.store import Store
from dedupfs.store.writer import PENDING_BYTES
from store.fixtures import Later
from store.invariants import check, reclaim_all

if TYPE_CHECKING:
    from store.fixtures import Read, Write

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def ratio(store: Store) -> float:
    return store.index.counters.logical_bytes / store.index.counters.allocated_bytes


def test_equal_files_are_one_copy_in_one_extent_each(
    store: Store, write: Write, read: Read
) -> None:
    data = noise(9 * MIB + 12345)
    for ino in range(2, 6):
        write(ino, data, step=300_000)
    assert ratio(store) > 3.99
    for ino in range(2, 6):
        assert read(ino, len(data)) == data
        assert store.usage(Ino(ino)) == (len(data), round(len(data) / 4), 0, 1)
    check(store)


def test_a_differing_header_costs_its_page(store: Store, write: Write, read: Read) -> None:
    data = noise(8 * MIB)
    files = [data[:100] + bytes([rank]) * 16 + data[116:] for rank in range(4)]
    for rank, content in enumerate(files):
        write(2 + rank, content)
    assert store.index.counters.live_bytes == len(data) + 3 * 4096
    for rank, content in enumerate(files):
        assert read(2 + rank, len(data)) == content
    check(store)


def test_inserted_bytes_cost_only_themselves(store: Store, write: Write, read: Read) -> None:
    data = noise(8 * MIB)
    write(2, data)
    write(3, b"n" * 1000 + data)
    assert store.index.counters.live_bytes == len(data) + 1000
    assert read(3, len(data) + 1000) == b"n" * 1000 + data
    check(store)


def test_a_changed_byte_costs_a_page(store: Store, write: Write, read: Read) -> None:
    data = noise(16 * MIB)
    changed = bytearray(data)
    for at in range(5_000_000, len(data), 8 * MIB):
        changed[at] ^= 1
    write(2, data)
    write(3, bytes(changed))
    assert store.index.counters.live_bytes == len(data) + 2 * 4096
    assert read(3, len(data)) == bytes(changed)
    check(store)


def test_zeros_take_no_space_and_read_back(store: Store, write: Write, read: Read) -> None:
    data = noise(100_000) + bytes(3 * MIB) + noise(50_000, 2) + bytes(4095) + b"end"
    write(2, data)
    write(3, data)
    assert store.index.counters.live_bytes == len(data) - 3 * MIB
    assert store.index.counters.zero_bytes == 2 * 3 * MIB
    assert read(2, len(data)) == read(3, len(data)) == data
    check(store)


@pytest.mark.parametrize("side", ["before", "behind"])
def test_zeros_are_not_shared_with_a_hole(
    store: Store, write: Write, read: Read, side: str
) -> None:
    """fsck takes a hole that a file uses for lost bytes, and --repair would refuse to read them."""
    data, zeros = noise(MIB + 3 * 4096), bytes(8192)
    if side == "before":
        old, new = zeros + data, noise(123_456, 2)[:-100] + bytes(100) + data
    else:
        old, new = data + zeros + noise(MIB, 3), data + bytes(100) + noise(MIB, 4)
    write(2, old)
    write(3, new)
    assert store.index.counters.live_bytes < len(data) + 2 * MIB + 4096, "the rest is shared"
    assert read(2, len(old)) == old
    assert read(3, len(new)) == new
    check(store)


def test_small_files_share_segments_without_padding(store: Store, write: Write, read: Read) -> None:
    files = [noise(4096 + 37 * i, i) for i in range(200)]
    for folder in range(4):
        for i, content in enumerate(files):
            write(2 + folder * 1000 + i, content)
    assert ratio(store) > 3.9
    assert len(list((store.path / "segments").iterdir())) == 1
    assert all(read(3002 + i, len(content)) == content for i, content in enumerate(files))
    check(store)


@pytest.mark.parametrize("is_later", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_writers_that_overtake_one_another_end_on_one_extent(
    store: Store, read: Read, seed: int, *, is_later: bool
) -> None:
    chance = random.Random(seed)
    later = Later(random.Random(seed) if is_later else None)
    data = noise(chance.randrange(5 * MIB, 12 * MIB), seed + 100)
    writers = [later.writer(store, Ino(2 + rank)) for rank in range(4)]
    at = [0] * 4
    while any(position < len(data) for position in at):
        rank = chance.randrange(4)
        for _ in range(chance.randrange(1, 9)):
            step = chance.choice([1, 100, 4096, 70_001, MIB, 3 * MIB])
            piece = data[at[rank] : at[rank] + step]
            writers[rank].write(at[rank], piece)
            at[rank] += len(piece)
            later.between_requests()
        # Beyond what waits in memory there is one copy at every moment.
        assert store.index.counters.live_bytes <= max(at)
    for writer in writers:
        writer.close()
    assert [store.usage(Ino(2 + rank)).extents for rank in range(4)] == [1] * 4
    assert store.index.counters.live_bytes == len(data)
    with store.index.read() as txn:
        assert txn.rows("segments") == 1
    assert all(read(2 + rank, len(data)) == data for rank in range(4))
    check(store)


def test_a_rewritten_file_frees_what_it_held(store: Store, write: Write, read: Read) -> None:
    first, second = noise(4 * MIB, 1), noise(4 * MIB, 2)
    write(2, first)
    write(2, second)
    reclaim_all(store)
    assert read(2, len(second)) == second
    assert store.index.counters.allocated_bytes == len(second)
    check(store)


def test_content_that_repeats_within_one_window_is_stored_once(
    store: Store, write: Write, read: Read
) -> None:
    block = noise(300_000)
    write(2, block * 3)
    assert store.index.counters.live_bytes < 1.5 * len(block)
    assert read(2, 3 * len(block)) == block * 3
    check(store)


def test_rotten_bytes_are_not_shared_but_healed_for_all(
    store: Store, write: Write, read: Read
) -> None:
    data = noise(2 * MIB)
    write(2, data)
    (segment,) = (store.path / "segments").iterdir()
    with segment.open("r+b") as file:
        file.seek(70_000)
        file.write(b"rot")
    assert read(2, len(data)) != data
    write(3, data)
    assert read(3, len(data)) == data
    assert store.index.counters.healed_chunks >= 1
    assert read(2, len(data)) == data, "the first file is healed with the second"


def test_different_bytes_of_one_fingerprint_stay_different(
    store: Store, write: Write, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dedupfs.store.ingest.fingerprint", lambda _data: bytes(16))
    monkeypatch.setattr("dedupfs.store.healing.fingerprint", lambda _data: bytes(16))
    left, right = noise(20_000, 1), noise(20_000, 2)
    write(2, left)
    write(3, right)
    assert (read(2, 20_000), read(3, 20_000)) == (left, right)
    assert store.index.counters.collisions > 0


def test_pending_bytes_are_seen_by_readers(store: Store, read: Read) -> None:
    data = noise(2 * PENDING_BYTES)
    writer = store.writer(Ino(2), lambda _txn, _delta: None)
    writer.write(0, data[:-10])
    writer.write(len(data) - 10, data[-10:])
    assert writer.start < writer.stop, "the last, unfinished chunk waits"
    assert writer.overlay(0, bytes(read(2, len(data)))) == data
    before = writer.start - 5
    assert writer.overlay(before, read(2, len(data))[before:]) == data[before:]
    writer.close()
    assert read(2, len(data)) == data


def test_a_failed_write_leaves_what_was_accepted(
    store: Store, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(3 * MIB)
    writer = store.writer(Ino(2), lambda _txn, _delta: None)
    writer.write(0, data[: MIB - 1])

    def full(_fd: int, _data: object, _offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NoSpace):
            writer.write(MIB - 1, data[MIB - 1 : 2 * MIB])
        assert (writer.start, writer.stop) == (0, MIB - 1)
    writer.write(MIB - 1, data[MIB - 1 :])
    writer.close()
    assert read(2, len(data)) == data
    check(store)


def test_a_window_without_room_is_told_to_the_next_write_and_kept(
    store: Store, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(4 * MIB)
    due: list[int] = []
    writer = store.writer(Ino(2), lambda _txn, _delta: None, lambda: due.append(1))
    for at in range(0, 2 * MIB, MIB):
        writer.write(at, data[at : at + MIB])
        if at == 0:
            writer.settle()  # begins to cut
    assert len(due) == 2

    def full(_fd: int, _data: object, _offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NoSpace):
            writer.settle()
        with pytest.raises(NoSpace):
            writer.write(2 * MIB, data[2 * MIB : 3 * MIB])
        with pytest.raises(NoSpace):
            writer.flush()
        assert (writer.start, writer.stop) == (0, 2 * MIB)
    writer.write(2 * MIB, data[2 * MIB :])
    writer.close()
    assert read(2, len(data)) == data
    check(store)


@pytest.mark.parametrize(("ranks", "most_cuts"), [(1, 12), (4, 10)])
def test_ranks_that_race_do_not_cut_what_another_places(
    store: Store, monkeypatch: pytest.MonkeyPatch, ranks: int, most_cuts: int
) -> None:
    cuts: list[int] = []
    begin = writer_module.begin_cut
    monkeypatch.setattr(writer_module, "begin_cut", lambda parts: cuts.append(1) or begin(parts))
    data = noise(12 * MIB)
    writers = [
        store.writer(Ino(2 + n), lambda _txn, _delta: None, lambda: None) for n in range(ranks)
    ]
    for at in range(0, len(data), MIB):
        for writer in writers:
            writer.write(at, data[at : at + MIB])
            writer.settle()
    for writer in writers:
        writer.close()
    assert ranks <= len(cuts) <= most_cuts
    assert store.index.counters.live_bytes == len(data)


@pytest.mark.parametrize("what", ["overwrite", "truncate", "overlay", "flush", "elsewhere"])
def test_what_befalls_a_window_that_is_being_cut(store: Store, read: Read, what: str) -> None:
    data = bytearray(noise(6 * MIB))
    writer = store.writer(Ino(2), lambda _txn, _delta: None, lambda: None)

    def more(start: int, stop: int) -> None:
        for at in range(start, stop, MIB):
            writer.write(at, bytes(data[at : min(at + MIB, stop)]))
            writer.settle()

    more(0, 3 * MIB)
    assert writer.stop - writer.start > MIB, "the next window is being cut"
    if what == "overwrite":
        data[writer.start + 1000 : writer.start + 1300] = noise(300, 5)
        writer.write(writer.start + 1000, noise(300, 5))
    elif what == "truncate":
        writer.truncate(3 * MIB - 500_000)
        data[3 * MIB - 500_000 :] = b""
    elif what == "overlay":
        seen = writer.overlay(writer.start, bytes(3 * MIB - writer.start))
        assert seen == data[writer.start : 3 * MIB]
    elif what == "flush":
        writer.flush()
        assert read(2, 3 * MIB) == data[: 3 * MIB]
    else:
        writer.write(5 * MIB, bytes(data[5 * MIB :]))
        data[3 * MIB : 5 * MIB] = bytes(2 * MIB)
    if what not in {"truncate", "elsewhere"}:
        more(3 * MIB, 6 * MIB)
    writer.close()
    assert read(2, len(data)) == data
    assert store.index.counters.live_bytes == len(data) - (2 * MIB if what == "elsewhere" else 0)
    check(store)


def test_a_rank_behind_finds_what_the_one_in_front_is_cutting(store: Store, read: Read) -> None:
    # Both have their first windows in memory when the first of them is placed.
    data = noise(5 * MIB)
    writers = [store.writer(Ino(2 + n), lambda _txn, _delta: None, lambda: None) for n in range(2)]
    for at in range(0, len(data), MIB):
        for writer in writers:
            writer.write(at, data[at : at + MIB])
        for writer in reversed(writers):
            writer.settle()
    for writer in writers:
        writer.close()
    assert store.index.counters.live_bytes == len(data)
    assert [store.usage(Ino(2 + n)).extents for n in range(2)] == [1, 1]
    assert read(2, len(data)) == read(3, len(data)) == data
    check(store)


class _Op:
    """Drawn operations on four files that often write the same bytes."""

    SOURCES = (noise(1_500_000, 7), bytes(300_000) + noise(700_000, 8), noise(900_000, 9))

    ops = st.lists(
        st.tuples(
            st.integers(0, 3),  # file
            st.sampled_from(["write", "append", "truncate", "flush", "close"]),
            st.integers(0, 2),  # source
            st.one_of(st.integers(0, 1_400_000), st.integers(0, 300).map(lambda n: n * 4096)),
            st.one_of(st.integers(1, 9000), st.integers(1, 1_200_000)),
        ),
        min_size=1,
        max_size=25,
    )


@settings(max_examples=200, deadline=None)
@given(ops=_Op.ops, chance=st.one_of(st.none(), st.randoms(use_true_random=False)))
def test_any_mix_of_writes_reads_back_like_plain_bytes(  # noqa: C901 - one step an operation
    tmp_path_factory: pytest.TempPathFactory,
    ops: list[tuple[int, str, int, int, int]],
    chance: random.Random | None,
) -> None:
    later = Later(chance)
    path = tmp_path_factory.mktemp("ingest")
    store = Store.open(path / "store")
    plain = [bytearray() for _ in range(4)]
    writers = {}
    for number, what, source, at, length in ops:
        ino, model = Ino(2 + number), plain[number]
        writer = writers.setdefault(number, later.writer(store, ino))
        if what in {"write", "append"}:
            offset = len(model) if what == "append" else at
            data = _Op.SOURCES[source][at : at + length]
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + len(data)] = data
            for start in range(0, len(data), 200_000):
                writer.write(offset + start, data[start : start + 200_000])
                later.between_requests()
        elif what == "truncate":
            del model[at:]
            writer.truncate(at)
            with store.index.write() as txn:
                store.truncate(txn, ino, at)
        elif what == "flush":
            writer.flush()
        else:
            writers.pop(number).close()
        later.between_requests()
        seen = bytes(store.read(ino, 0, len(model)).run())
        if number in writers:
            seen = writer.overlay(0, seen)
        assert seen == bytes(model)
    for writer in writers.values():
        writer.close()
    reclaim_all(store)
    check(store)
    for number, model in enumerate(plain):
        assert bytes(store.read(Ino(2 + number), 0, len(model)).run()) == bytes(model)
    store.close()
    reopened = Store.open(path / "store")
    check(reopened)
    for number, model in enumerate(plain):
        assert bytes(reopened.read(Ino(2 + number), 0, len(model)).run()) == bytes(model)
    reopened.close()


def test_the_chunk_limits_fit_what_waits_in_memory() -> None:
    assert chunking.CHUNK_MAX_BYTES < PENDING_BYTES
