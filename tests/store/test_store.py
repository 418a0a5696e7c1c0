"""If these fail, a store is opened twice, misread, or not as it was left."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import (
    Corrupt,
    Damaged,
    NoSpace,
    NotAStore,
    StoreError,
    StoreInUse,
    StoreTooNew,
)
from dedupfs.core.format import U32
from dedupfs.core.types import FILE_MAX_BYTES, Ino
from dedupfs.store import instance
from dedupfs.store.store import Store
from store.invariants import check, reclaim_all

if TYPE_CHECKING:
    from pathlib import Path

    from store.fixtures import Read, Write

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def test_a_store_in_use_is_refused_and_names_its_holder(tmp_path: Path) -> None:
    first = Store.open(tmp_path / "s", holder="/mnt/cache")
    with pytest.raises(StoreInUse, match=rf"process {os.getpid()} \(/mnt/cache\)"):
        Store.open(tmp_path / "s")
    first.close()
    Store.open(tmp_path / "s").close()


def test_who_only_looks_at_a_store_is_waited_for(tmp_path: Path) -> None:
    Store.open(tmp_path / "s").close()
    with (tmp_path / "s" / "lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as dedupfs status does
        ends = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        ends.start()
        Store.open(tmp_path / "s").close()
        ends.join()


def test_a_new_store_is_for_its_owner_only(tmp_path: Path) -> None:
    Store.open(tmp_path / "s").close()
    for path in [tmp_path / "s", *(tmp_path / "s").iterdir()]:
        if path.name != "FORMAT":
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize("where", ["marker", "index"])
def test_a_newer_store_is_refused_untouched(tmp_path: Path, where: str) -> None:
    store = Store.open(tmp_path / "s")
    with store.index.write() as txn:
        txn.put("meta", b"format", U32.pack(99 if where == "index" else 1))
    store.close()
    if where == "marker":
        (tmp_path / "s" / "FORMAT").write_text("dedupfs store, format 99\n")
    with pytest.raises(StoreTooNew, match="format 99, this dedupfs reads up to 1"):
        Store.open(tmp_path / "s")


def test_a_folder_with_other_things_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not lose")
    with pytest.raises(NotAStore, match="not empty"):
        Store.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_marker_that_says_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_bytes(b"\xff\x00garbage")
    with pytest.raises(NotAStore, match="does not say"):
        Store.open(tmp_path)


def test_a_missing_parent_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file or directory"):
        Store.open(tmp_path / "no" / "store")


def test_a_broken_index_is_reported_not_replaced(tmp_path: Path) -> None:
    Store.open(tmp_path / "s").close()
    data = tmp_path / "s" / "index" / "data.mdb"
    data.write_bytes(b"garbage" * 1000)
    with pytest.raises(Corrupt, match="index"):
        Store.open(tmp_path / "s")
    assert data.read_bytes() == b"garbage" * 1000


def test_offsets_beyond_4_gib_and_to_the_limit(store: Store, write: Write) -> None:
    data = noise(100_000)
    for number, offset in enumerate([(1 << 32) - 5, 1 << 40, FILE_MAX_BYTES - len(data)]):
        write(2 + number, data, offset=offset)
        assert bytes(store.read(Ino(2 + number), offset, len(data)).run()) == data
    big = noise(MIB, 2)
    write(9, big, offset=5 << 30)
    assert bytes(store.read(Ino(9), 5 << 30, MIB).run()) == big
    check(store)


def test_warm_reads_need_no_thread_and_equal_cold_ones(store: Store, write: Write) -> None:
    data = noise(300_000) + bytes(100_000) + noise(50_000, 3)
    write(2, data)
    for start, size in [(0, len(data)), (299_999, 2), (250_000, 190_000), (449_990, 10)]:
        warm = store.read(Ino(2), start, size).try_now()
        assert warm is not None
        assert bytes(warm) == data[start : start + size]
    (segment,) = [p for p in (store.path / "segments").iterdir() if p.stat().st_size > 200_000]
    fd = os.open(segment, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    plan = store.read(Ino(2), 0, len(data))
    if plan.try_now() is None:
        assert bytes(plan.run()) == data


def test_a_lost_or_short_segment_is_an_error_never_zeros(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    for ino in (2, 3):
        writer = store.writer(Ino(ino), lambda _txn, _delta: None)
        writer.write(0, noise(MIB, ino))
        writer.close()
    store.close()
    short, lost = sorted((tmp_path / "s" / "segments").iterdir())
    os.truncate(short, 1000)
    lost.unlink()
    store = Store.open(tmp_path / "s")
    with pytest.raises(Damaged, match="is damaged"):
        store.read(Ino(2), 0, MIB).run()
    with pytest.raises(Damaged, match="is damaged"):
        store.read(Ino(3), 0, MIB)
    writer = store.writer(Ino(4), lambda _txn, _delta: None)
    writer.write(0, noise(MIB, 3))
    writer.close()
    assert bytes(store.read(Ino(4), 0, MIB).run()) == noise(MIB, 3)
    store.close()


def test_usage_counts_a_file_that_shares_with_itself(store: Store, write: Write) -> None:
    block = noise(400_000)
    write(2, block + block)
    usage = store.usage(Ino(2))
    assert usage.logical == 800_000
    assert usage.physical_share == usage.exclusive == store.index.counters.live_bytes


KILLED = """
import os, random, signal, sys
from pathlib import Path
from dedupfs.core.types import Ino
from dedupfs.store.store import Store
store = Store.open(Path(sys.argv[1]))
writer = store.writer(Ino(2), lambda txn, delta: None)
data = random.Random(1).randbytes(3 << 20)
writer.write(0, data)
writer.flush()
other = store.writer(Ino(3), lambda txn, delta: None)
other.write(0, random.Random(2).randbytes(3 << 20))  # the tail stays in memory
small = store.writer(Ino(4), lambda txn, delta: None)
small.write(0, b"small" * 1000)
small.flush()
segment = store._segments.create(is_home=True)  # the index never learns of it
os.pwrite(segment.fd, b"junk" * 1000, 0)
os.pwrite(other.home.fd, b"junk", 50 << 20)  # written, not committed
with store.index.write() as txn:
    store.drop(txn, Ino(3))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_nothing_flushed_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "s"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    store = Store.open(path)
    assert bytes(store.read(Ino(2), 0, 3 << 20).run()) == noise(3 << 20, 1)
    assert bytes(store.read(Ino(4), 0, 5000).run()) == b"small" * 1000
    reclaim_all(store)
    check(store)
    assert store.index.counters.allocated_bytes <= (3 << 20) + 8192
    store.close()


def test_regression_a_pack_that_equals_a_file_still_takes_others(
    store: Store, write: Write, read: Read
) -> None:
    """Reading the only small file of a store made every later small write fail with EIO."""
    first, second = noise(5000, 1), noise(5000, 2)
    write(2, first)
    backing = store.backing(Ino(2), 5000)
    if backing is not None:
        backing.close()
    write(3, second)
    assert (read(2, 5000), read(3, 5000)) == (first, second)


def test_a_segment_read_past_the_index_never_grows_or_changes(store: Store, read: Read) -> None:
    data = noise(3 * MIB)
    ahead = store.writer(Ino(2), lambda _txn, _delta: None)
    ahead.write(0, data[: 2 * MIB])
    behind = store.writer(Ino(3), lambda _txn, _delta: None)
    behind.write(0, data[:MIB])
    behind.flush()
    ahead.flush()
    backing = store.backing(Ino(2), 2 * MIB)
    assert backing is not None
    ahead.write(2 * MIB, data[2 * MIB :])
    behind.write(MIB, data[MIB:])
    ahead.close()
    behind.close()
    assert os.fstat(backing.fd).st_size == 2 * MIB
    assert os.pread(backing.fd, 2 * MIB, 0) == data[: 2 * MIB]
    backing.close()
    assert read(2, len(data)) == read(3, len(data)) == data
    check(store)


def test_a_disk_that_lost_bytes_once_is_not_believed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second fdatasync after a failed write-back succeeds, and the bytes are gone."""
    store = Store.open(tmp_path / "s")
    for ino in (2, 3):
        writer = store.writer(Ino(ino), lambda _txn, _delta: None)
        writer.write(0, noise(MIB, ino))
        writer.close()
        if ino == 2:
            checkpoint = store.begin_checkpoint()
            assert checkpoint is not None
            checkpoint.write()
            store.end_checkpoint(checkpoint, succeeded=True)

    def failing(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        checkpoint = store.begin_checkpoint()
        assert checkpoint is not None
        with pytest.raises(OSError, match="Input/output"):
            checkpoint.write()
        store.end_checkpoint(checkpoint, succeeded=False)
    with pytest.raises(Damaged, match="run dedupfs scrub"):
        store.begin_checkpoint()
    with pytest.raises(StoreError, match="not all is durable"):
        store.close()
    again = Store.open(store.path)
    assert bytes(again.read(Ino(2), 0, MIB).run()) == noise(MIB, 2)
    assert again.usage(Ino(3)).extents == 0, "what came after may be gone: it is not shown"
    again.close()


def test_regression_bytes_of_an_undone_transaction_are_not_followed(
    store: Store, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close(2) said yes, and the segment of the whole file was removed."""
    data = noise(900_000)
    writer = store.writer(Ino(2), lambda _txn, _delta: None)
    writer.write(0, data)

    def failing(_changes: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.index.marker(), "append", failing)
        patch.setattr(store.index.reserve, "give", lambda: False)
        with pytest.raises(NoSpace):
            writer.flush()
    writer.flush()
    writer.close()
    assert read(2, len(data)) == data
    check(store)


def test_regression_a_hole_with_old_bytes_at_its_edges_is_not_read_past_the_index(
    store: Store, write: Write, read: Read
) -> None:
    """Only whole pages are punched: the edges of what another file left stay in the segment."""
    data = noise(2 * MIB)
    holed = data[:500_001] + bytes(1_000_000) + data[1_500_001:]
    write(2, data)
    write(3, holed)
    with store.index.write() as txn:
        store.drop(txn, Ino(2))
    reclaim_all(store)
    assert store.backing(Ino(3), len(holed)) is None
    assert read(3, len(holed)) == holed


def test_regression_freed_ranges_that_overlap_stay_until_the_checkpoint(
    store: Store, write: Write
) -> None:
    """A range freed, shared again, made durable and freed again hid a larger one around it."""
    data = noise(MIB)
    write(10, data)
    write(11, data[:491_520])
    write(12, data[:12_288])
    with store.index.write() as txn:
        store.truncate(txn, Ino(10), 409_600)
    write(13, data)  # what was just freed is shared again
    with store.index.write() as txn:
        store.drop(txn, Ino(11))
    checkpoint = store.begin_checkpoint()
    assert checkpoint is not None
    checkpoint.write()
    store.end_checkpoint(checkpoint, succeeded=True)
    with store.index.write() as txn:
        store.drop(txn, Ino(13))  # not durable: a power cut brings it back
    store.reclaim()
    (segment,) = [p for p in (store.path / "segments").iterdir() if p.stat().st_size == MIB]
    assert segment.read_bytes() == data
    reclaim_all(store)
    check(store)


@pytest.mark.parametrize("ended", ["closed", "killed"])
def test_a_store_may_be_moved_to_another_path_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: str
) -> None:
    """A disk is carried over: what was durable is there, under another path and boot."""
    store = Store.open(tmp_path / "here")
    writer = store.writer(Ino(2), lambda _txn, _delta: None)
    writer.write(0, noise(MIB))
    writer.close()
    checkpoint = store.begin_checkpoint()
    assert checkpoint is not None
    checkpoint.write()
    store.end_checkpoint(checkpoint, succeeded=True)
    if ended == "closed":
        store.close()
    else:
        store.index.close()
        store._lock.release()
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tmp_path / "here", tmp_path / "elsewhere" / "there")
    shutil.rmtree(tmp_path / "here")
    other = instance.Instance(bytes(16), 1)
    monkeypatch.setattr(instance, "current", lambda _folder: other)
    moved = Store.open(tmp_path / "elsewhere" / "there")
    assert bytes(moved.read(Ino(2), 0, MIB).run()) == noise(MIB)
    check(moved)
    moved.close()
