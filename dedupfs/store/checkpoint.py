"""When data and index are durable together.

A checkpoint begins on the loop thread, which fixes what it covers; its syncs run in a worker; its
end, on the loop thread again, lets ranges be punched that only older states referred to. The
order is: segment bytes, names of new segment files, then the journal with its mark. All of them
before the mark is what makes a state after a power cut whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    def write(self) -> None:
        """Do the syncs. May run in a worker thread. Raises OSError."""
        self.unsynced.sync()
        self._journal.mark(self._position)


class Checkpoints:
    """Begins and ends checkpoints, one at a time, and folds the journal into LMDB."""

    def __init__(self, index: Index, segments: Segments) -> None:
        self._index = index
        self._segments = segments
        # By segment, the starts of ranges freed before the checkpoint under way began.
        self._being_marked: dict[int, set[int]] = {}

    def begin(self) -> Checkpoint | None:
        """Return a checkpoint of all acknowledged until now, or None when it is durable already."""
        if self._index.is_marked and not self._segments.is_unsynced:
            return None
        assert not self._being_marked, "one checkpoint at a time"
        self._being_marked = self._index.take_unmarked_frees()
        return Checkpoint(
            self._index.marker(), self._index.position, self._segments.take_unsynced()
        )

    def end(self, checkpoint: Checkpoint, *, succeeded: bool) -> None:
        """Take note that `write` returned, or raised."""
        if not succeeded:
            self._segments.give_back(checkpoint.unsynced)
            self._index.give_back_unmarked_frees(self._being_marked)
        self._being_marked = {}

    def fold(self, *, clean: bool = False) -> None:
        """Make all durable and start the next journal; blocks. No checkpoint may be under way.

        Raises OSError, NoSpace.
        """
        unsynced = self._segments.take_unsynced()
        try:
            unsynced.sync()
            self._index.fold(clean=clean)
        except BaseException:
            self._segments.give_back(unsynced)
            raise
        self._index.take_unmarked_frees()

    def is_marked(self, segment: int, start: int) -> bool:
        """Tell whether the range freed at `start` stays free after a power cut."""
        return not any(start in found.get(segment, ()) for found in self._unmarked)

    def is_all_marked(self, segment: int) -> bool:
        """Tell whether everything freed of `segment` stays free after a power cut."""
        return not any(found.get(segment) for found in self._unmarked)

    @property
    def _unmarked(self) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
        return self._index.unmarked_frees, self._being_marked
