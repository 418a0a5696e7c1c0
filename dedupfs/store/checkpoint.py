"""When data and index are durable together.

A checkpoint begins on the loop thread, which fixes what it covers; its syncs run in a worker; its
end, on the loop thread again, lets ranges be punched that only older states referred to. The
order is: segment bytes, names of new segment files, then the journal with its mark. All of them
before the mark is what makes a state after a power cut whole.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dedupfs.core.errors import Damaged, FsError
from dedupfs.store.journal import NotKept

if TYPE_CHECKING:
    from dedupfs.store.index import Index
    from dedupfs.store.journal import Journal
    from dedupfs.store.segments import Segments, Unsynced


class Checkpoint:
    """One checkpoint under way."""

    def __init__(self, journal: Journal, position: int, unsynced: Unsynced) -> None:
        self._journal = journal
        self._position = position
        self.unsynced = unsynced
        self.is_lost = False  # the disk did not keep bytes that were written

    def write(self) -> None:
        """Do the syncs. May run in a worker thread. Raises OSError."""
        try:
            self.unsynced.sync()
            self._journal.mark(self._position)
        except NotKept:
            self.is_lost = True
            raise


class Checkpoints:
    """Begins and ends checkpoints, one at a time, and folds the journal into LMDB."""

    def __init__(self, index: Index, segments: Segments) -> None:
        self._index = index
        self._segments = segments
        # By segment, the starts of ranges freed before the checkpoint under way began.
        self._being_marked: dict[int, set[int]] = {}
        # The kernel tells of a failed write-back once; a second fdatasync succeeds without the
        # bytes. So the first is the last word: the next start goes back to the last checkpoint.
        self._is_lost = False
        self.held_up: set[int] = set()  # segments that could not be punched since the last one

    def begin(self) -> Checkpoint | None:
        """Return a checkpoint of all acknowledged until now, or None when it is durable already.

        Raises Damaged once the disk has failed to keep what was written.
        """
        self._check_not_lost()
        if self._index.is_marked and not self._segments.is_unsynced:
            return None
        assert not self._being_marked, "one checkpoint at a time"
        self._being_marked = self._index.take_unmarked_frees()
        return Checkpoint(
            self._index.marker(), self._index.position, self._segments.take_unsynced()
        )

    def end(self, checkpoint: Checkpoint, *, succeeded: bool) -> None:
        """Take note that `write` returned, or raised."""
        if checkpoint.is_lost:
            self._note_lost()
        if not succeeded:
            self._segments.give_back(checkpoint.unsynced)
            self._index.give_back_unmarked_frees(self._being_marked)
        else:
            self._index.remove_old_journals()
            self._recount(checkpoint.unsynced)
        self._being_marked = {}
        self.held_up.clear()

    def begin_fold(self) -> None:
        """Put the journal into LMDB and start the next; the next checkpoint makes that durable.

        Raises OSError, NoSpace, Damaged as `begin` does.
        """
        self._check_not_lost()
        try:
            self._index.fold()
        except NotKept:
            self._note_lost()
            raise

    def fold(self, *, clean: bool = False) -> None:
        """Make all durable and start the next journal; blocks. No checkpoint may be under way.

        Raises OSError, NoSpace, Damaged as `begin` does.
        """
        self._check_not_lost()
        unsynced = self._segments.take_unsynced()
        try:
            unsynced.sync()
            self._recount(unsynced)
            self._index.fold(clean=clean)
            if not clean:
                self._index.marker().mark(self._index.position)
                self._index.remove_old_journals()
        except BaseException as error:
            if isinstance(error, NotKept):
                self._note_lost()
            self._segments.give_back(unsynced)
            raise
        self._index.take_unmarked_frees()

    def _recount(self, synced: Unsynced) -> None:
        """Set right what segments take: file systems choose places when they write back."""
        # On a full disk it waits for the next time.
        with contextlib.suppress(FsError), self._index.write() as txn:
            self._segments.recount(txn, synced)

    def _note_lost(self) -> None:
        self._is_lost = True
        self._index.note_lost()

    def _check_not_lost(self) -> None:
        if self._segments.is_lost:
            self._note_lost()
        if self._is_lost:
            raise Damaged(
                "the disk failed to keep written bytes (fdatasync failed): unmount, check the disk, "
                "then run dedupfs scrub"
            )

    def is_marked(self, segment: int, start: int) -> bool:
        """Tell whether the range freed at `start` stays free after a power cut."""
        return not any(start in found.get(segment, ()) for found in self._unmarked)

    def is_all_marked(self, segment: int) -> bool:
        """Tell whether everything freed of `segment` stays free after a power cut."""
        return not any(found.get(segment) for found in self._unmarked)

    @property
    def _unmarked(self) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
        return self._index.unmarked_frees, self._being_marked
