"""Stores with one thing wrong, each of which a crash test must catch: else that test is blind."""

from __future__ import annotations

import os
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from dedupfs.store import checkpoint, index, instance, journal, segments

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.store.index import Index


class Mutant(NamedTuple):
    """How to break the code in this process, and what that leaves out."""

    apply: Callable[[], None]
    what: str


def _os_with(**changed: Callable[..., object]) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(os), **changed})


def _nothing(*_args: object) -> None:
    pass


def _replace(owner: object, name: str, new: object) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more: the mutant changes nothing"
    setattr(owner, name, new)


def _sound() -> None:
    pass


def _no_segment_sync() -> None:
    _replace(segments, "sync_file", _nothing)


def _no_segment_names() -> None:
    _replace(segments, "sync_folder", _nothing)


def _no_journal_fsync() -> None:
    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.fsync(fd)

    _replace(journal, "os", _os_with(fsync=fsync))


def _no_journal_name() -> None:
    _replace(journal, "sync_folder", _nothing)


def _no_mark_sync() -> None:
    _replace(journal, "sync_file", _nothing)


def _no_lmdb_sync() -> None:
    _replace(index.Index, "_next_journal", _with_base_durable(index.Index._next_journal))


def _with_base_durable(
    make: Callable[[Index], journal.Journal],
) -> Callable[[Index], journal.Journal]:
    def made(self: Index) -> journal.Journal:
        new = make(self)
        new.is_base_durable = True
        return new

    return made


def _old_journal_at_once() -> None:
    """A fold removes the old journal before its commit is durable."""
    whole = index.Index.fold

    def fold(self: Index, *, clean: bool = False) -> None:
        whole(self, clean=clean)
        for path in self._path.glob("journal-*"):
            if self._journal is None or path != self._journal.path:
                path.unlink()

    _replace(index.Index, "fold", fold)


def _mark_before_segments() -> None:
    def write(self: checkpoint.Checkpoint) -> None:
        self._journal.mark(self._position)
        self.unsynced.sync()

    _replace(checkpoint.Checkpoint, "write", write)


def _journal_after_fold() -> None:
    """LMDB goes to the next epoch before that epoch's journal is durable."""
    made = journal.Journal

    class Late(made):
        def __init__(self, *args: object) -> None:
            journal.os, journal.sync_folder = _os_with(fsync=_nothing), _nothing
            super().__init__(*args)
            journal.os, journal.sync_folder = os, sync_folder

    sync_folder = journal.sync_folder
    whole = index.Index.fold

    def fold(self: Index, *, clean: bool = False) -> None:
        whole(self, clean=clean)
        if self._journal is not None:
            os.fsync(self._journal._fd)
            sync_folder(self._path)

    _replace(index, "Journal", Late)
    _replace(index.Index, "fold", fold)


def _old_journal_first() -> None:
    """A fold removes the old journal before LMDB has its records durably."""
    whole = index.Index.fold

    def fold(self: Index, *, clean: bool = False) -> None:
        for path in self._path.glob("journal-*"):
            path.unlink()
        journal.sync_folder(self._path)
        whole(self, clean=clean)

    _replace(index.Index, "fold", fold)


def _punch_at_once() -> None:
    _replace(checkpoint.Checkpoints, "_unmarked", property(lambda _self: ({}, {})))


def _no_sync_after_kill() -> None:
    _replace(instance, "sync_file_system", _nothing)


def _flipped_bytes() -> None:
    whole = segments.write_all
    count = 0

    def write(fd: int, offset: int, data: memoryview) -> None:
        nonlocal count
        count += 1
        if count % 20 == 0:
            flipped = bytearray(data)
            flipped[len(flipped) // 2] ^= 1
            data = memoryview(bytes(flipped))
        whole(fd, offset, data)

    _replace(segments, "write_all", write)


SOUND = "sound"
# Those that a real ext4 or XFS shows; for the others these two order more than POSIX asks.
MUTANTS = {
    SOUND: Mutant(_sound, "nothing"),
    "no-segment-sync": Mutant(_no_segment_sync, "fdatasync of segments"),
    "no-segment-names": Mutant(_no_segment_names, "fsync of the segments' folder"),
    "no-journal-fsync": Mutant(_no_journal_fsync, "fsync of a new journal"),
    "no-journal-name": Mutant(_no_journal_name, "fsync of the folder of a new journal"),
    "no-mark-sync": Mutant(_no_mark_sync, "fdatasync of journal and mark"),
    "no-lmdb-sync": Mutant(_no_lmdb_sync, "LMDB's own syncs"),
    "old-journal-at-once": Mutant(_old_journal_at_once, "the old journal kept until a mark"),
    "mark-before-segments": Mutant(_mark_before_segments, "segments synced before the mark"),
    "journal-after-fold": Mutant(_journal_after_fold, "the new journal durable before the fold"),
    "old-journal-first": Mutant(_old_journal_first, "the old journal kept until the fold"),
    "punch-at-once": Mutant(_punch_at_once, "punching only after a checkpoint"),
    "no-sync-after-kill": Mutant(_no_sync_after_kill, "syncfs before the fold after a kill"),
    "flipped-bytes": Mutant(_flipped_bytes, "one bit of every 20th segment write"),
}
