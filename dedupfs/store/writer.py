"""The bytes being written to one file: pending in memory, window by window given to an ingest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.chunking import begin_cut
from dedupfs.store.healing import FileTooShort, note_missing
from dedupfs.store.ingest import Follow, Ingest

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.core.chunking import Cut, Cutting
    from dedupfs.core.types import Ino
    from dedupfs.store.segment_file import Segment
    from dedupfs.store.shelf import Shelf
    from dedupfs.store.txn import Txn

PENDING_BYTES: Final = 1 << 20
# A window being cut keeps 3 MiB in memory: few are enough for the thread, thousands may be open.
_CUT_AT_ONCE: Final = 32


class _Window(NamedTuple):
    """Pending bytes up to file offset `stop`, being cut in a thread."""

    cutting: Cutting
    stop: int
    parts: int  # of the writer's


class Writer:
    """The bytes being written to one inode: pending in memory, then shared or stored.

    Where `later` is given, a full window is not placed by the write that fills it: `later` is
    called, and who gave it calls `settle` soon, when the write is answered. A window of a file that
    has no match yet waits for another one, and is cut meanwhile: at most 2 windows are pending.
    """

    def __init__(
        self,
        shelf: Shelf,
        ino: Ino,
        on_ingest: Callable[[Txn, int], None],
        later: Callable[[], None] | None = None,
    ) -> None:
        """`on_ingest(txn, mapped_delta)` runs inside every transaction that places data."""
        self.start = 0
        self.stop = 0
        self._parts: list[bytes] = []
        self._shelf = shelf
        self.ino = ino
        self._on_ingest = on_ingest
        self._later = later
        self._is_due = False
        self._is_stuck = False  # there was no room: the next write is to hear of it
        self._window: _Window | None = None
        self.home: Segment | None = None
        self.follow: Follow | None = None

    def write(self, offset: int, data: bytes) -> None:
        """Take `data`; ingest when enough is pending or it does not continue what is.

        Raises NoSpace; the pending bytes are then as they were before.
        """
        if not data:
            return
        if not self.start <= offset <= self.stop or self.start == self.stop:
            self.flush()
            self.start = self.stop = offset
        stop = offset + len(data)
        if max(self.stop, stop) - self._unsettled < PENDING_BYTES:
            self._take(offset, data)
            return
        if self._is_due:
            self.settle()
        if self._later is not None and not self._is_stuck:
            self._take(offset, data)
            self._is_due = True
            self._later()
            return
        before = list(self._parts), self.start, self.stop
        try:
            self._take(offset, data)
            self._ingest(final=False)
        except BaseException:
            self._parts, self.start, self.stop = before
            raise

    def write_now(self, offset: int, data: bytes) -> None:
        """Place what is pending, then `data`, whole or not at all. Raises NoSpace."""
        self.flush()
        self._keep([data], offset)
        try:
            self._ingest(final=True)
        except BaseException:
            self._keep([], offset)
            raise

    @property
    def _unsettled(self) -> int:
        return self.start if self._window is None else self._window.stop

    def settle(self) -> None:
        """Place the full window, or begin to cut it. Raises NoSpace, and the next write does."""
        self._is_due = False
        if self.stop - self._unsettled < PENDING_BYTES:
            return  # flushed or cut off meanwhile
        try:
            if not self._is_fresh:
                self._ingest(final=False)
            elif self._window is not None:
                self._ingest_cut()
            elif self.stop - self.start < 2 * PENDING_BYTES:
                self._begin_first_window()
            else:  # there were windows that were written over
                self._ingest(final=False)
        except BaseException:
            self._is_stuck = True
            raise

    @property
    def _is_fresh(self) -> bool:
        """Whether nothing is known that the pending bytes could equal.

        Of ranks that race, the next one places what this one would be cutting: then it is not.
        """
        follow, home = self.follow, self.home
        if follow is None:
            return True
        is_alone = home is not None and home.users == 1 and follow == (home.id, 0)
        return is_alone and home is not None and home.size <= self.start

    def _begin_first_window(self) -> None:
        self._window = self._begin_window(self._parts)
        if self._window is None:
            self._ingest(final=False)

    def _begin_window(self, parts: list[bytes]) -> _Window | None:
        under_way = self._shelf.cuttings
        cutting = begin_cut(parts) if len(under_way) < _CUT_AT_ONCE else None
        if cutting is None:
            return None
        under_way.add(cutting)
        return _Window(cutting, self.stop, len(parts))

    def flush(self) -> None:
        """Place everything pending; it is committed on return. Raises NoSpace."""
        if self._parts:
            if self._window is not None and self._is_fresh:
                self._ingest_cut()
            self._ingest(final=True)

    def truncate(self, size: int) -> None:
        """Forget pending bytes at or behind `size`."""
        if size < self.stop and self._parts:
            kept = b"".join(self._parts)[: max(0, size - self.start)]
            self._keep([kept], self.start)

    def overlay(self, offset: int, data: bytes) -> bytes:
        """Return `data`, read at `offset`, with the pending bytes laid over it."""
        start, stop = max(offset, self.start), min(offset + len(data), self.stop)
        if start >= stop:
            return data
        pending = b"".join(self._parts)
        if self._window is None:
            self._parts = [pending]
        middle = pending[start - self.start : stop - self.start]
        return data[: start - offset] + middle + data[stop - offset :]

    def close(self) -> None:
        """Flush, and let go of the home segment. Raises NoSpace, then nothing is pending."""
        try:
            self.flush()
        finally:
            self._keep([], self.stop)
            if self.home is not None:
                with self._shelf.index.write() as txn:
                    self._shelf.let_go(txn, self.home)
                self.home = None

    def _take(self, offset: int, data: bytes) -> None:
        if offset == self.stop:
            self._parts.append(data)
            self.stop += len(data)
            return
        pending = b"".join(self._parts)
        at = offset - self.start
        self._keep([pending[:at] + data + pending[at + len(data) :]], self.start)

    def _keep(self, parts: list[bytes], start: int) -> None:
        """Let `parts`, from file offset `start`, be what is pending."""
        self._window = None
        self._is_stuck = False
        self._parts = [part for part in parts if part]
        self.start = start
        self.stop = start + sum(map(len, self._parts))

    def _ingest(self, *, final: bool) -> None:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        done = self._place(data, None, final=final)
        self._keep([data[done:]], self.start + done)

    def _ingest_cut(self) -> None:
        """Place the window but for its last chunk, which may yet grow; begin to cut the next."""
        window, self._window = self._window, None
        assert window is not None, "asked before"
        cut = window.cutting.result()
        done = len(cut.data) - cut.lengths[-1]
        rest = [cut.data[done:], *self._parts[window.parts :]]
        behind = self.stop - window.stop
        next_window = self._begin_window(rest) if behind >= PENDING_BYTES else None
        self._place(cut.data, cut, final=True)
        self._keep(rest, self.start + done)
        self._window = next_window

    def _place(self, data: bytes, cut: Cut | None, *, final: bool) -> int:
        try:
            with self._shelf.index.write() as txn:
                ingest = Ingest(self, self._shelf, txn, data, cut)
                done = ingest.run(final=final)
                self._on_ingest(txn, ingest.mapped_delta)
        except FileTooShort as short:
            with self._shelf.index.write() as txn:
                note_missing(txn, self._shelf.segments, short.segment)
            return self._place(data, cut, final=final)
        return done

    def adopt(self, txn: Txn, segment: Segment) -> None:
        """Make `segment` the home."""
        if self.home is not segment:
            segment.users += 1
            if self.home is not None:
                self._shelf.let_go(txn, self.home)
            self.home = segment
