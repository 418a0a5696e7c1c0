"""If these fail, unequal bytes are shared, or a failed write-back is not told to fsync."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import Damaged
from dedupfs.core.types import Ino, SegmentId
from dedupfs.store import comparing, writeback

if TYPE_CHECKING:
    from dedupfs.store.store import Store
    from store.fixtures import Read, Write

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("is_python", [False, True])
def test_a_segment_holds_exactly_what_it_holds(
    store: Store, write: Write, monkeypatch: pytest.MonkeyPatch, *, is_python: bool
) -> None:
    if is_python:
        monkeypatch.setattr(comparing, "_extension", None)
    data = noise(1_000_000)
    write(2, data)
    with store.index.read() as txn:
        fd = store._segments.get(txn, SegmentId(1)).fd

    def holds(offset: int, ours: bytes, start: int, stop: int) -> bool:
        return comparing.holds(fd, offset, ours, (start, stop))

    assert holds(0, data, 0, len(data))
    assert holds(1000, b"x" * 7 + data[1000:], 7, len(data) - 993)
    for at in (0, 1, 131_071, 131_072, 131_073, 500_000, 999_999):
        changed = bytearray(data)
        changed[at] ^= 1
        assert not holds(0, bytes(changed), 0, len(changed))
    assert not holds(500_000, data, 500_000 - 1, len(data) - 1)
    assert not holds(10, data + data, 10, len(data) + 10), "the file ends before"
    fd = os.open(store.path, os.O_RDONLY)
    try:
        assert not holds(0, data, 0, 1000), "a folder cannot be read"
    finally:
        os.close(fd)


def test_growing_segments_are_sent_to_the_disk_in_whole_pages_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    woken: list[int] = []

    class Libc:
        @staticmethod
        def sync_file_range(_fd: int, start: object, length: object, flags: int) -> int:
            assert flags == 2, "start writing, wait for nothing"
            sent.append((start.value, start.value + length.value))  # type: ignore[attr-defined]
            return -1  # whatever it says, fdatasync has the last word

    monkeypatch.setattr(writeback, "_libc", Libc)
    store.write_back.wake = lambda: woken.append(1)
    writer = store.writer(Ino(2), lambda _txn, _delta: None)
    data = noise(40 * MIB + 5)
    for at in range(0, len(data), MIB):
        writer.write(at, data[at : at + MIB])
        if store.write_back.is_wanted:
            store.write_back.run()
    writer.close()
    assert len(sent) == len(woken) == 2
    assert sent[0][0] == 0
    assert sent[0][1] == sent[1][0]
    assert all(stop % 4096 == 0 and stop - start >= 16 * MIB for start, stop in sent)
    assert store._segments.is_unsynced, "fdatasync is still to come"


def test_a_write_back_that_failed_is_told_by_the_checkpoint(
    store: Store, write: Write, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = noise(20 * MIB)
    write(2, data)
    store.write_back.run()

    def failed(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    checkpoint = store.begin_checkpoint()
    assert checkpoint is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failed)
        with pytest.raises(OSError, match="Input/output"):
            checkpoint.write()
    store.end_checkpoint(checkpoint, succeeded=False)
    with pytest.raises(Damaged):
        store.begin_checkpoint()
    assert read(2, len(data)) == data
    store._checkpoints._is_lost = False  # for the end of the test
