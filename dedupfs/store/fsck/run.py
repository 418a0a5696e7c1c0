"""A check from end to end, and a repair: looks and mends in turn until nothing is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from dedupfs.core.errors import Corrupt
from dedupfs.core.format import STORE_FILES
from dedupfs.core.types import Ino
from dedupfs.store import digest, namespace, offline
from dedupfs.store.fsck import derived, eviction, lost, media, names, rows, space, strays, tree
from dedupfs.store.fsck.findings import Problem, Report, no_progress

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from dedupfs.store.fsck.findings import Progress
    from dedupfs.store.txn import Txn

_ROUNDS_MAX: Final = 8
# What other repairs bring with them: listed when it was there from the start.
FOLLOWS: Final = {
    "unit",
    "counter",
    "shares",
    "links",
    "mapped-bytes",
    "parent",
    "chunk",
    "segment",
}


def check(path: Path, progress: Progress = no_progress) -> Report:
    """Check the store at `path`, whose lock is held; change nothing.

    Raises Corrupt when its index cannot be read at all.
    """
    with offline.opened(path / STORE_FILES["index"]) as index:
        report = _run_of(path, index, progress).look()
        if index.replayed:
            report.notes.append(f"{index.replayed} operations are in the journal")
        _name(index.txn, report.problems)
        return report


def repair(path: Path, progress: Progress = no_progress) -> Report:
    """Check the store at `path`, whose lock is held, and mend what can be.

    Nothing on disk changes before all of it is done. Raises Corrupt when the index cannot be read.
    """
    with offline.opened(path / STORE_FILES["index"]) as index:
        return mend(path, index, progress)


def mend(path: Path, index: offline.Offline, progress: Progress) -> Report:
    """Repair an open index and commit it."""
    run = _run_of(path, index, progress)
    first = report = run.look()
    for _ in range(_ROUNDS_MAX):
        if not report.problems:
            break
        _name(index.txn, report.problems)
        _fix(index.txn, report.problems)
        if report is not first:
            first.problems += [found for found in report.problems if found.kind not in FOLLOWS]
        if not any(found.repaired for found in report.problems):
            break
        report = run.look()
    first.summary = report.summary
    if first.problems or not index.was_clean:
        index.commit()
        strays.remove(path, run.left_over)
    return first


def _name(txn: Txn, problems: list[Problem]) -> None:
    """Give each problem of an inode its path."""
    entries = lost.entries_of(txn, {found.ino for found in problems if found.ino is not None})
    paths = lost.paths_of(txn, entries)
    for found in problems:
        if found.ino in paths:
            found.path = paths[found.ino][0]


def _fix(txn: Txn, problems: list[Problem]) -> None:
    # First the counters: new inodes take their numbers from them.
    for found in sorted(problems, key=lambda found: found.kind != "counter"):
        if found.fix is not None:
            found.fix(txn)
            txn.changes.clear()
            found.repaired = found.repaired or "set right"
    doomed = [found for found in problems if found.is_lost and found.ino is not None]
    entries = lost.entries_of(txn, {found.ino for found in doomed if found.ino is not None})
    paths = lost.paths_of(txn, entries)
    moved: dict[int, bytes] = {}
    for found in doomed:
        assert found.ino is not None, "chosen so"
        ino = Ino(found.ino)
        if ino not in moved:
            known = paths.get(ino, [])
            if namespace.find_inode(txn, ino) is None or any(map(lost.is_inside, known)):
                continue
            moved[ino] = lost.take(txn, ino, entries.get(ino, []), known)
        txn.changes.clear()
        found.repaired = f"moved to {moved[ino].decode(errors='backslashreplace')}"


def examine(path: Path, txn: Txn) -> list[Problem]:
    """Return what is wrong in an open store, for tests."""
    return _Run(path, txn, no_progress).look().problems


def _run_of(path: Path, index: offline.Offline, progress: Progress) -> _Run:
    told = [Problem("journal", text, fix=_accept) for text in index.problems]
    try:
        digest.check(index.path)
    except Corrupt as error:
        text = f"{error}; what counts do not show is not found: --rebuild puts back a copy"
        told.append(Problem("rotten", text, fix=_accept))
    return _Run(path, index.txn, progress, was_clean=index.was_clean, told=told)


class _Run:
    """Looks at one store."""

    def __init__(
        self,
        path: Path,
        txn: Txn,
        progress: Progress,
        *,
        was_clean: bool = False,
        told: list[Problem] | None = None,
    ) -> None:
        """`told` is what opening the index has shown."""
        self._folder = path / STORE_FILES["segments"]
        self._txn = txn
        self._progress = progress
        self._was_clean = was_clean
        self._told = told or []
        self._is_journal_whole = not self._told
        self.left_over: list[int] = []  # segments of a killed process that the index never knew

    def look(self) -> Report:
        """Check everything once."""
        report = Report(problems=self._told)
        self._told = []
        report.problems += rows.check(self._txn, self._progress)
        if any(found.kind == "order" for found in report.problems):
            return report  # what cannot be found would be taken for missing
        inodes = names.load_inodes(self._txn)
        entries, found = names.check(self._txn, inodes, self._progress)
        report.problems += found
        report.problems += tree.Tree(self._txn, inodes, entries).check()
        report.problems += eviction.check(self._txn)
        report.problems += space.check_files(self._txn, inodes, self._progress)
        self._check_space(report, inodes)
        return report

    def _check_space(self, report: Report, inodes: names.Inodes) -> None:
        txn = self._txn
        found = media.files(self._folder) if self._folder.exists() else {}
        table = media.load(txn, found)
        report.problems += media.check_rows(table, was_clean=self._was_clean)
        gone = media.known_gone(txn)
        live_bytes, used = 0, [np.zeros(0, np.int64)]
        for group, count, use in space.groups(txn, self._progress):
            report.problems += space.check_shares(txn, group, count, use)
            report.problems += media.check_use(table, use, found)
            report.problems += media.check_gone(self._folder, table, use, gone, self._progress)
            live_bytes += int((use.stop - use.start).sum())
            used.append(np.unique(use.segment))
        report.problems += self._lost_files(gone)
        report.problems += media.check_unused(txn, table, np.concatenate(used))
        report.problems += self._strays(table, found, np.concatenate(used))
        report.problems += derived.check_chunks(txn, self._progress)
        report.problems += derived.check_frees(txn)
        sums = self._sums(inodes, table, live_bytes)
        report.problems += derived.check_counters(txn, sums, self._bounds(inodes, found, table))
        report.summary = {**sums, "segments": len(table.segment)}

    def _lost_files(self, gone: media.Gone) -> list[Problem]:
        """Return files that need bytes which are gone, but for those in lost+found already."""
        if not gone:
            return []
        files = gone.files(self._txn)
        entries = lost.entries_of(self._txn, files)
        paths = lost.paths_of(self._txn, entries)
        return [
            Problem("lost-bytes", f"{count} bytes of inode {ino} are gone", ino=ino, is_lost=True)
            for ino, count in files.items()
            if not any(map(lost.is_inside, paths.get(ino, [])))
        ]

    def _strays(
        self,
        table: media.Media,
        found: dict[int, os.stat_result],
        used: np.typing.NDArray[np.int64],
    ) -> list[Problem]:
        known = {*table.segment.tolist(), *used.tolist()}
        unknown = sorted(segment for segment in found if segment not in known)
        if not self._was_clean and self._is_journal_whole:
            self.left_over = unknown  # as after every kill
            return []
        return [strays.problem(self._folder, segment, found[segment]) for segment in unknown]

    def _sums(self, inodes: names.Inodes, table: media.Media, live_bytes: int) -> dict[str, int]:
        txn = self._txn
        directories = int(inodes.is_directory.sum())
        frees = sum(int.from_bytes(value, "big") for _key, value in rows.sound(txn, "frees"))
        logical = sum(int(batch.length.sum()) for batch in space.batches(txn))
        return {
            "files": len(inodes.ino) - directories,
            "directories": directories,
            "logical_bytes": logical,
            "live_bytes": live_bytes,
            "allocated_bytes": int(table.allocated.sum()),
            "pending_free_bytes": frees,
            "damaged_bytes": sum(
                int.from_bytes(value, "big") for _key, value in rows.sound(txn, "damaged")
            ),
        }

    def _bounds(
        self, inodes: names.Inodes, found: dict[int, os.stat_result], table: media.Media
    ) -> dict[str, int]:
        cookies = (
            int.from_bytes(value[8:], "big") for _key, value in self._txn.scan("dirents", b"")
        )
        left_over = set(self.left_over)
        segments = [segment for segment in found if segment not in left_over]
        return {
            "next_ino": int(inodes.ino[-1]) + 1 if len(inodes.ino) else 2,
            "next_segment": max([0, *segments, *table.segment.tolist()]) + 1,
            "next_cookie": max(cookies, default=2) + 1,
        }


def _accept(txn: Txn) -> None:
    """Change nothing: what the journal held and cannot be read is lost: the store goes on without it."""
    del txn
