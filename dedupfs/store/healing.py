"""Putting damaged bytes back when a writer brings the same ones again, for all files that share them.

Fingerprints tell: bytes that have a chunk's fingerprint are what the chunk was, and stored bytes
that no longer have it are rotten. A file that is gone or too short is made as long as the healed
chunk needs. Its other missing bytes then read as zeros, so they are noted as damaged before that,
in a transaction of its own.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from dedupfs.core.chunking import fingerprint
from dedupfs.core.errors import Damaged
from dedupfs.core.intervals import gaps
from dedupfs.store import chunks, damage, shares

if TYPE_CHECKING:
    from dedupfs.core.types import SegmentId
    from dedupfs.store.chunks import Chunk
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn

log = logging.getLogger(__name__)


class FileTooShort(Exception):
    """A segment's file is gone or ends too early, which is not noted yet: `note_missing` does it."""

    def __init__(self, segment: SegmentId) -> None:
        super().__init__(f"segment {segment:x}")
        self.segment = segment


def missing(txn: Txn, segments: Segments, segment: SegmentId) -> list[tuple[int, int]]:
    """Return the used ranges that the segment's file is too short for and nobody noted yet."""
    last = shares.stop_of(txn, segment)
    size = segments.size_on_disk(segment)
    if size >= last:
        return []
    noted = damage.overlapping(txn, segment, size, last)
    used = shares.rows(txn, segment, size, last)
    found: list[tuple[int, int]] = []
    for row in used:
        found += gaps(noted, max(row.start, size), row.stop) if row.stop > size else []
    return found


def note_missing(txn: Txn, segments: Segments, segment: SegmentId) -> int:
    """Note what the segment's file no longer has as damaged; return the number of bytes."""
    found = missing(txn, segments, segment)
    for start, stop in found:
        damage.mark(txn, segment, start, stop)
    lost = sum(stop - start for start, stop in found)
    if lost:
        log.error("segment %016x: its file is gone or too short, %d bytes are lost", segment, lost)
    return lost


class Healer:
    """Compares a writer's bytes with stored chunks, and puts rotten ones right."""

    def __init__(self, txn: Txn, segments: Segments) -> None:
        self._txn = txn
        self._segments = segments

    def holds(self, chunk: Chunk, name: bytes, piece: bytes) -> bool | None:
        """Return whether `chunk`, called `name` as `piece` is, holds `piece`, if need be healed.

        None: the stored bytes are unreadable and cannot be put back. Raises FileTooShort, NoSpace.
        """
        stop = chunk.offset + chunk.length
        suspect = bool(damage.overlapping(self._txn, chunk.segment, chunk.offset, stop))
        stored = self._read(chunk)
        if stored == piece and not suspect:
            return True
        if chunk.length != len(piece):
            return False if stored is not None else None
        if stored is None or suspect or fingerprint(stored) != name:
            # A suspect chunk is written even if it looks right: memory may, and the disk not.
            return True if self._repair(chunk, piece) else None
        return False

    def heal_around(
        self, segment: SegmentId, ranges: list[tuple[int, int]], ours: bytes, base: int
    ) -> bool:
        """Heal chunks with bytes in `ranges`, from `ours` at offset `base`; tell whether any was.

        Such a chunk gets its fingerprint back when our bytes are laid over it.
        """
        healed = False
        for start, stop in ranges:
            for chunk, name in chunks.overlapping(self._txn, segment, start, stop):
                mended = self._mended(chunk, name, ours, base)
                healed |= mended is not None and self._repair(chunk, mended)
        return healed

    def _mended(self, chunk: Chunk, name: bytes, ours: bytes, base: int) -> bytes | None:
        """Return what the chunk must hold, if it does not and `ours` says what is wrong."""
        end = chunk.offset + chunk.length
        low, high = max(chunk.offset, base), min(end, base + len(ours))
        mended = ours[low - base : high - base]
        stored = self._read(chunk)
        if len(mended) < chunk.length:
            if stored is None:
                return None
            mended = stored[: low - chunk.offset] + mended + stored[high - chunk.offset :]
        if stored == mended and not damage.overlapping(self._txn, chunk.segment, chunk.offset, end):
            return None
        return mended if fingerprint(mended) == name else None

    def _repair(self, chunk: Chunk, piece: bytes) -> bool:
        """Write `piece` over the chunk; return whether that worked."""
        if missing(self._txn, self._segments, chunk.segment):
            raise FileTooShort(chunk.segment)
        try:
            self._segments.repair(self._txn, chunk.segment, chunk.offset, piece)
        except OSError as error:
            log.warning(
                "segment %016x at %d cannot be healed: %s", chunk.segment, chunk.offset, error
            )
            return False
        damage.clear(self._txn, chunk.segment, chunk.offset, chunk.offset + chunk.length)
        self._txn.counters.healed_chunks += 1
        return True

    def _read(self, chunk: Chunk) -> bytes | None:
        with contextlib.suppress(Damaged):
            return self._segments.get(self._txn, chunk.segment).read(chunk.offset, chunk.length)
        return None
