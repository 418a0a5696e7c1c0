"""A new index from the newest copy, for a store whose own cannot be read.

What the copy says is checked against the segments; bytes that no copy knows are kept as files. The old index is
moved aside and never removed.
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING, Final

from dedupfs.core.chunking import cut, fingerprint
from dedupfs.core.errors import Corrupt, StoreError
from dedupfs.core.format import STORE_FILES, U64
from dedupfs.core.intervals import gaps
from dedupfs.core.types import ROOT_INO, SegmentId
from dedupfs.store import backup, chunks, damage, digest, instance, journal, namespace, offline
from dedupfs.store.fsck import derived, media, space, strays
from dedupfs.store.fsck.findings import Problem, no_progress
from dedupfs.store.fsck.names import blank
from dedupfs.store.fsck.run import FOLLOWS, mend
from dedupfs.store.segments import OPEN

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from dedupfs.store.fsck.findings import Progress, Report
    from dedupfs.store.txn import Txn

_COMMIT_ROWS: Final = 100_000
_WINDOW_BYTES: Final = 4 << 20
_NAMED_MIN_BYTES: Final = 512  # as in store.ingest


def rebuild(path: Path, progress: Progress = no_progress) -> Report:
    """Make the index of the store at `path`, whose lock is held, anew.

    Raises StoreError when the index there is can be read, or nothing can be made of the store.
    """
    _refuse_sound(path)
    found, problems = backup.newest(path)
    (path / STORE_FILES["segments"]).mkdir(mode=0o700, exist_ok=True)
    made = path / f"{STORE_FILES['index']}.new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700)
    _load(made, found, progress)
    with offline.opened(made) as index:
        replayed = _replay(path, index, found)
        _adopt_unfinished(path, index)
        report = mend(path, index, progress)
        _name_chunks(path, index, progress)
        index.commit()
    moved = _put_in_place(path, made)
    told = [Problem("copy", text, repaired="not used") for text in problems]
    made_anew = [problem for problem in report.problems if problem.kind not in FOLLOWS]
    report.problems = [_told(found, replayed), *told, *made_anew]
    if moved is not None:
        report.notes.append(f"the old index is kept in {moved}")
    return report


def _refuse_sound(path: Path) -> None:
    index = path / STORE_FILES["index"]
    try:
        if not (index / "data.mdb").stat().st_size:
            return
        digest.check(index)
        with offline.opened(index) as opened:
            is_new = opened.is_new
    except (Corrupt, FileNotFoundError):
        return
    if not is_new:
        raise StoreError(
            f"the index of {path} can be read: use --repair, which loses less; to start from the "
            f"copy all the same, move {index} away"
        )


def _told(found: backup.Found | None, replayed: int) -> Problem:
    if found is None:
        detail = "the index is gone, and there is no copy of it: names are lost"
        return Problem("index", detail, repaired="made a new index")
    detail = f"the index is gone; what changed after the copy {found.path.name} is lost"
    if replayed:
        detail = f"the index is gone; the copy {found.path.name} and its journal are whole"
    done = f"made from {found.rows} rows of the copy and {replayed} operations of the journal"
    return Problem("index", detail, repaired=done)


def _load(made: Path, found: backup.Found | None, progress: Progress) -> None:
    with offline.opened(made) as index:
        txn = index.txn
        if found is None:
            namespace.add_inode(txn, blank(stat.S_IFDIR | 0o755, ROOT_INO), ROOT_INO)
        else:
            for count, row in enumerate(backup.rows(found.path)):
                txn.put(row.table, row.key, row.value)
                if count % _COMMIT_ROWS == 0:
                    txn.changes.clear()
                    progress("copy", count, found.rows)
            raw = txn.get("meta", b"epoch")
            index.epoch = U64.unpack(raw)[0] if raw and len(raw) == U64.size else 0
            index.reload_counters()
        index.commit()


def _replay(path: Path, index: offline.Offline, found: backup.Found | None) -> int:
    """Replay the journal that continues the copy, if it is there; return its operations."""
    if found is None:
        return 0
    count = 0
    # A start that changes nothing begins the next epoch.
    for epoch in (found.epoch, found.epoch + 1):
        left = journal.path_of(path / STORE_FILES["index"], epoch)
        try:
            raw = journal.load(left, epoch, instance.current(path))
            for record in journal.records(raw.raw, raw.stop):
                index.apply(record)
                count += 1
        except (OSError, Corrupt):
            continue
    index.reload_counters()
    return count


def _adopt_unfinished(path: Path, index: offline.Offline) -> None:
    """Keep what segments hold that were being written when the copy was made."""
    folder = path / STORE_FILES["segments"]
    txn = index.txn
    found = media.files(folder)
    table = media.load(txn, found)
    used: dict[int, list[tuple[int, int]]] = {}
    for row in range(len(table.segment)):
        segment = int(table.segment[row])
        if table.state[row] == OPEN and segment in found:
            used[segment] = []
    for segment, start, stop in _extent_ranges(txn, used.keys()):
        used[segment].append((start, stop))
    for segment, ranges in used.items():
        data = media.data_ranges(folder / f"{segment:016x}", found[segment].st_size)
        covered = sorted(ranges)
        left = [gap for start, stop in data for gap in gaps(covered, start, stop)]
        strays.adopt(txn, segment=SegmentId(segment), found=found[segment], ranges=left)
        txn.changes.clear()


def _extent_ranges(txn: Txn, segments: Container[int]) -> list[tuple[int, int, int]]:
    out = []
    for batch in space.batches(txn):
        for row in range(len(batch.ino)):
            segment = int(batch.segment[row])
            if segment in segments:
                out.append((segment, int(batch.at[row]), int(batch.at[row] + batch.length[row])))
    return out


def _name_chunks(path: Path, index: offline.Offline, progress: Progress) -> None:
    """Read what files use, and enter its chunks, so that new copies of it are found."""
    txn = index.txn
    covers = list(derived.covers(txn))
    total = sum(stop - start for _segment, start, stop in covers)
    done = 0
    for segment, start, stop in covers:
        spoilt = damage.overlapping(txn, SegmentId(segment), start, stop)
        for low, high in gaps(spoilt, start, stop):
            _name_range(path, txn, SegmentId(segment), (low, high))
        txn.changes.clear()
        done += stop - start
        progress("content", done, total)


def _name_range(path: Path, txn: Txn, segment: SegmentId, span: tuple[int, int]) -> None:
    at, stop = span
    try:
        fd = os.open(path / STORE_FILES["segments"] / f"{segment:016x}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        while at < stop:
            data = os.pread(fd, min(_WINDOW_BYTES, stop - at), at)
            if not data:
                return
            at += _name_window(txn, segment, at, data, is_last=at + len(data) >= stop)
    except OSError:
        return  # a read error: scrub tells of it
    finally:
        os.close(fd)


def _name_window(txn: Txn, segment: SegmentId, at: int, data: bytes, *, is_last: bool) -> int:
    """Enter the chunks of `data`, all but the last unless it is whole; return their bytes."""
    view = memoryview(data)
    done = 0
    for length in cut(view):
        if done + length == len(data) and not is_last and done:
            break
        if length >= _NAMED_MIN_BYTES:
            name = fingerprint(view[done : done + length])
            chunks.register(txn, name, chunks.Chunk(segment, at + done, length))
        done += length
    return done


def _put_in_place(path: Path, made: Path) -> Path | None:
    index = path / STORE_FILES["index"]
    number = 1
    while (aside := path / f"{STORE_FILES['index']}.damaged-{number}").exists():
        number += 1
    was_there = index.exists()
    if was_there:
        index.rename(aside)
    made.rename(index)
    journal.sync_folder(path)
    return aside if was_there else None
