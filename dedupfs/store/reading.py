"""How file bytes come back: extents planned from the index, then read warm inline or cold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Self

from dedupfs.core.errors import Damaged
from dedupfs.store import damage, extents

if TYPE_CHECKING:
    from types import TracebackType

    from dedupfs.core.types import Ino
    from dedupfs.store.segment_file import Segment
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn
    from dedupfs.store.verifying import Check, Verifier


class _Piece(NamedTuple):
    segment: Segment
    offset: int
    start: int  # in the buffer
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


# One warm read at a time: it is answered before the next handler runs.
_warm = bytearray(1 << 20)


class ReadPlan:
    """The segment ranges that make up a read; what no piece covers is zeros."""

    __slots__ = ("_pieces", "_segments", "_size", "check")

    def __init__(
        self, segments: Segments, pieces: list[_Piece], size: int, check: Check | None = None
    ) -> None:
        self._segments = segments
        self._pieces = pieces
        self._size = size
        self.check = check

    def try_now(self) -> memoryview | None:
        """Return the bytes if the page cache has all of them, else None.

        The view is good until the next call.
        """
        if self.check is not None and not self.check.is_done_before:
            return None
        global _warm  # noqa: PLW0603 - see there
        if self._size > len(_warm):
            _warm = bytearray(self._size)
        view = memoryview(_warm)[: self._size]
        at = 0
        for segment, offset, start, stop in self._pieces:
            if at < start:
                view[at:start] = bytes(start - at)
            try:
                count = segment.read_into(offset, view[start:stop], os.RWF_NOWAIT)
            except BlockingIOError:
                return None
            if count != stop - start:
                return None
            at = stop
        if at < self._size:
            view[at:] = bytes(self._size - at)
        return view

    def run(self) -> bytearray:
        """Return the bytes; may block, and may run in a worker thread inside `with plan`.

        Raises Damaged when a segment cannot give them.
        """
        buffer = bytearray(self._size)
        view = memoryview(buffer)
        for segment, offset, start, stop in self._pieces:
            segment.read_into(offset, view[start:stop])
        if self.check is not None:
            self.check.run()
        return buffer

    def __enter__(self) -> Self:
        """Keep what is to be read from being punched."""
        for piece in self._pieces:
            self._segments.pin(piece.segment.id)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let it go."""
        for piece in self._pieces:
            self._segments.unpin(piece.segment.id)


def plan(
    txn: Txn, segments: Segments, ino: Ino, span: tuple[int, int], verifier: Verifier | None = None
) -> ReadPlan:
    """Return how to read the bytes `span`, start and stop, of `ino`. Raises Damaged."""
    offset, stop = span
    pieces: list[_Piece] = []
    for extent in extents.overlapping(txn, ino, offset, stop):
        start, end = max(extent.offset, offset), min(extent.stop, stop)
        first = start + extent.shift
        if damage.overlapping(txn, extent.segment, first, end + extent.shift):
            raise Damaged(f"segment {extent.segment:x} is damaged at {first}..{end + extent.shift}")
        segment = segments.get(txn, extent.segment)
        pieces.append(_Piece(segment, first, start - offset, end - offset))
    check = None
    if verifier is not None:
        ranges = [(piece.segment, piece.offset, piece.length) for piece in pieces]
        check = verifier.check(txn, ranges)
    return ReadPlan(segments, pieces, stop - offset, check)
