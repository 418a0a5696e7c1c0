"""How written bytes find their copy: followed, looked up, or placed.

The rules are DESIGN.md's "Ingest". One ingest is one index transaction. Where the design
says pack segments are page-aligned, they are not: 4-16 KiB files waste a sixth of their size on
alignment (ratio 3.3 of 4 instead of 3.99), and the reclaimer can punch the pages between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core import matching
from dedupfs.core.chunking import CHUNK_MAX_BYTES, cut, fingerprint
from dedupfs.core.errors import Damaged, NoSpace
from dedupfs.core.format import Extent
from dedupfs.core.types import PAGE_BYTES, SegmentId
from dedupfs.store import chunks, comparing, damage, extents
from dedupfs.store.healing import Healer
from dedupfs.store.segments import get_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dedupfs.core.chunking import Cut
    from dedupfs.store.segment_file import Segment
    from dedupfs.store.shelf import Shelf
    from dedupfs.store.txn import Txn
    from dedupfs.store.writer import Writer

# Smaller unique runs of a file without a home go to the pack segment.
HOME_MIN_BYTES: Final = CHUNK_MAX_BYTES
# An index entry costs about 120 bytes: smaller pieces are stored without one.
_NAMED_MIN_BYTES: Final = 512


class Follow(NamedTuple):
    """The writer's bytes equalled `segment` up to here, at segment offset = file offset + shift."""

    segment: SegmentId
    shift: int


class _Piece(NamedTuple):
    """`start..stop` of the data being ingested, unique, with its fingerprint."""

    start: int
    stop: int
    name: bytes


class Ingest:
    """One transaction that places pending bytes; offsets are into `data`.

    With `cut`, `data` is cut already, and all but the last chunk is to be placed.
    """

    def __init__(
        self, writer: Writer, shelf: Shelf, txn: Txn, data: bytes, cut: Cut | None = None
    ) -> None:
        self.mapped_delta = 0
        self._writer = writer
        self._shelf = shelf
        self._segments = shelf.segments
        self._txn = txn
        self._healer = Healer(txn, shelf.segments)
        self._data = data
        self._view = memoryview(data)
        self._base = writer.start  # file offset of data[0]
        self._length = len(data)
        self._known: dict[int, tuple[int, bytes]] = {}  # chunks by their start: length, name
        if cut is not None:
            at = 0
            for length, name in zip(cut.lengths[:-1], cut.names, strict=False):
                self._known[at] = length, name
                at += length
            self._length = at

    def run(self, *, final: bool) -> int:
        """Place all of `data`, or, unless `final`, all but the last, unfinished chunk."""
        at, length = 0, self._length
        while at < length:
            zeros_start, zeros_stop = matching.zero_run(self._data, at)
            zeros_start, zeros_stop = min(zeros_start, length), min(zeros_stop, length)
            at = self._place_data(at, zeros_start, final=final or zeros_start < length)
            if at < zeros_start:
                break
            if zeros_start < zeros_stop:
                self._place_zeros(zeros_start, zeros_stop)
                at = zeros_stop
        return at

    def _place_zeros(self, start: int, stop: int) -> None:
        self.mapped_delta += extents.clear(
            self._txn, self._writer.ino, self._base + start, self._base + stop
        )
        self._txn.counters.zero_bytes += stop - start

    def _place_data(self, start: int, stop: int, *, final: bool) -> int:
        at = start
        while at < stop:
            reached = self._follow(at, stop)
            if reached == at:
                reached = self._search(at, stop, final=final)
                if reached == at:
                    break
            at = reached
        return at

    def _follow(self, start: int, stop: int) -> int:
        """Map what equals the segment behind the follow pointer; return how far it got."""
        follow = self._writer.follow
        if follow is None:
            return start
        segment = self._segments.find(self._txn, follow.segment)
        if segment is None or get_row(self._txn, segment.id) is None:
            # Gone, or only a transaction that was undone has written to it.
            self._writer.follow = None
            return start
        offset = self._base + start + follow.shift
        length = min(stop - start, segment.run_around(offset)[1] - offset) if offset >= 0 else 0
        if length <= 0:
            if segment.written is not None and segment.is_home and follow.shift == 0:
                self._writer.adopt(self._txn, segment)
            else:
                self._writer.follow = None
            return start
        length = self._undamaged(segment.id, offset, length, start)
        return self._compare(segment, offset, start, start + length) if length else start

    def _undamaged(self, segment: SegmentId, offset: int, length: int, start: int) -> int:
        """Heal what `length` bytes from `start` can; return how many to follow before damage."""
        noted = damage.overlapping(self._txn, segment, offset, offset + length)
        if noted and self._healer.heal_around(segment, noted, self._data, offset - start):
            noted = damage.overlapping(self._txn, segment, offset, offset + length)
        return max(0, noted[0][0] - offset) if noted else length

    def _compare(self, segment: Segment, offset: int, start: int, stop: int) -> int:
        if comparing.holds(segment.fd, offset, self._data, (start, stop)):
            self._map_followed(segment, start, stop, offset)
            return stop
        ours = self._data[start:stop]
        try:
            theirs = segment.read(offset, stop - start)
        except Damaged:
            self._writer.follow = None
            return start
        runs = matching.equal_runs(ours, theirs, -(self._base + start) % PAGE_BYTES)
        equal = sum(run_stop - run_start for run_start, run_stop, same in runs if same)
        if equal * 2 < len(ours):
            self._writer.follow = None
            prefix = matching.equal_prefix(ours, theirs)
            if prefix < PAGE_BYTES:
                return start
            self._map_followed(segment, start, start + prefix, offset)
            return start + prefix
        unequal = [(offset + low, offset + high) for low, high, same in runs if not same]
        if self._healer.heal_around(segment.id, unequal, self._data, offset - start):
            return self._compare(segment, offset, start, stop)
        self._place_runs(segment, start, runs, offset)
        return stop

    def _place_runs(
        self, segment: Segment, start: int, runs: list[tuple[int, int, bool]], offset: int
    ) -> None:
        """Map the equal runs to `segment`, look the others up; follow as before."""
        follow = self._writer.follow
        for run_start, run_stop, same in runs:
            at, stop = start + run_start, start + run_stop
            if same:
                self._map_followed(segment, at, stop, offset + run_start)
                continue
            while at < stop:
                at = self._search(at, stop, final=True)
        self._writer.follow = follow

    def _map_followed(self, segment: Segment, start: int, stop: int, offset: int) -> None:
        """Map what equals `segment`, but store zeros at its edges that are a hole there."""
        follow = self._writer.follow
        first, last = self._outside_holes(segment, start, stop, offset)
        for at, end in ((start, first), (last, stop)):
            if at < end:
                self._search(at, end, final=True)  # under a page: one chunk
        self._writer.follow = follow
        if first < last:
            self._map(segment.id, first, last, offset + first - start)
            self._txn.counters.followed_bytes += last - first

    def _outside_holes(
        self, segment: Segment, start: int, stop: int, offset: int
    ) -> tuple[int, int]:
        """Return what of `start..stop`, equal to `segment` at `offset`, is no hole at its edges.

        A hole that a file used would be taken for lost bytes. There is none between: a page of
        zeros is never compared.
        """
        data, last = self._data, offset + stop - start - 1
        if not data[start] and segment.is_hole(offset):
            piece = data[start:stop]
            start += len(piece) - len(piece.lstrip(b"\0"))
        if start < stop and not data[stop - 1] and segment.is_hole(last):
            stop = start + len(data[start:stop].rstrip(b"\0"))
        return start, stop

    def _search(self, start: int, stop: int, *, final: bool) -> int:
        """Cut `start..stop` into chunks; place them up to the first one stored already, map that.

        Returns how far it got: `stop`, the end of the mapped chunk, or, unless `final`, the start
        of the last chunk, which may yet grow.
        """
        fresh: list[_Piece] = []
        names: set[bytes] = set()
        at = start
        for length, name in self._chunks(start, stop):
            end = at + length
            if end == stop and not final:
                break
            if name in names:  # the content repeats within this window
                self._place(fresh)
                fresh, names = [], set()
            stored = self._find(name, at, end)
            if stored is not None:
                self._settle(fresh, at, end, stored)
                return end
            fresh.append(_Piece(at, end, name))
            names.add(name)
            at = end
        self._place(fresh)
        return at

    def _settle(self, fresh: list[_Piece], start: int, stop: int, stored: chunks.Chunk) -> None:
        """Map `start..stop` to `stored`, and as much of `fresh` before it as is equal there too."""
        back = self._equal_before(fresh[0].start, start, stored) if fresh else 0
        edge = start - back
        whole = [piece for piece in fresh if piece.stop <= edge]
        cut_piece = next((piece for piece in fresh if piece.start < edge < piece.stop), None)
        self._place(whole)
        if cut_piece is not None:
            name = fingerprint(self._view[cut_piece.start : edge])
            found = self._find(name, cut_piece.start, edge)
            if found is None:
                self._place([_Piece(cut_piece.start, edge, name)])
            else:
                self._map(found.segment, cut_piece.start, edge, found.offset)
                self._txn.counters.matched_bytes += edge - cut_piece.start
        self._map(stored.segment, edge, stop, stored.offset - back)
        self._txn.counters.matched_bytes += stop - edge
        self._writer.follow = Follow(stored.segment, stored.offset - (self._base + start))

    def _equal_before(self, floor: int, start: int, stored: chunks.Chunk) -> int:
        """Return how many bytes before `start`, not before `floor`, also stand before `stored`."""
        segment = self._segments.get(self._txn, stored.segment)
        room = stored.offset - segment.run_around(stored.offset)[0]
        limit = min(start - floor, room)
        noted = damage.overlapping(
            self._txn, stored.segment, max(0, stored.offset - limit), stored.offset
        )
        limit = min(limit, stored.offset - noted[-1][1]) if noted else limit
        if limit <= 0:
            return 0
        try:
            theirs = segment.read(stored.offset - limit, limit)
        except Damaged:
            return 0
        back = matching.equal_suffix(self._data[start - limit : start], theirs)
        if back:
            edge = self._outside_holes(segment, start - back, start, stored.offset - back)[0]
            back = start - edge
        if back < start - floor and (stored.offset - self._base - start) % PAGE_BYTES == 0:
            # Whole pages of the file stay together, so that they can be cloned or mapped.
            back -= min(back, -(self._base + start - back) % PAGE_BYTES)
        return back

    def _chunks(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """Yield length and fingerprint of the chunks of `start..stop`."""
        at = start
        while (known := self._known.get(at)) is not None and at + known[0] <= stop:
            yield known
            at += known[0]
        if at < stop:
            for length in cut(self._view[at:stop]):
                yield length, fingerprint(self._view[at : at + length])
                at += length

    def _find(self, name: bytes, start: int, stop: int) -> chunks.Chunk | None:
        """Return where exactly `start..stop`, called `name`, is stored; heal it when it rotted."""
        if stop - start < _NAMED_MIN_BYTES:
            return None
        stored = chunks.find(self._txn, name)
        if stored is None:
            return None
        is_held = self._healer.holds(stored, name, self._data[start:stop])
        if is_held:
            return stored
        if is_held is None:
            chunks.forget(self._txn, stored.segment, stored.offset, stored.offset + stored.length)
        else:
            self._txn.counters.collisions += 1
        return None

    def _place(self, pieces: list[_Piece]) -> None:
        """Store neighbouring unique pieces in one write."""
        if not pieces:
            return
        start, stop = pieces[0].start, pieces[-1].stop
        if self._shelf.index.reserve.is_given and not self._shelf.index.restore_reserve():
            raise NoSpace("room is needed for removing files first")
        segment, offset = self._room(self._base + start, stop - start)
        self._segments.write(self._txn, segment, offset, self._view[start:stop])
        for piece in pieces:
            length = piece.stop - piece.start
            if length >= _NAMED_MIN_BYTES:
                chunk = chunks.Chunk(segment.id, offset + piece.start - start, length)
                chunks.register(self._txn, piece.name, chunk)
        self._map(segment.id, start, stop, offset)
        self._txn.counters.unique_bytes += stop - start
        if segment is self._writer.home:
            self._writer.follow = Follow(segment.id, 0)

    def _room(self, position: int, length: int) -> tuple[Segment, int]:
        """Return where `length` unique bytes of file offset `position` go."""
        home = self._writer.home
        if home is not None and home.is_free(position, position + length):
            return home, position
        if length < HOME_MIN_BYTES:
            return self._shelf.pack_room(self._txn, length)
        home = self._segments.create(is_home=True)
        self._writer.adopt(self._txn, home)
        return home, position

    def _map(self, segment: SegmentId, start: int, stop: int, offset: int) -> None:
        extent = Extent(self._base + start, segment, offset, stop - start)
        self.mapped_delta += extents.map_range(self._txn, self._writer.ino, extent)
