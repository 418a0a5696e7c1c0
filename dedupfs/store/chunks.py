"""The chunk index: which fingerprint is stored where, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dedupfs.core.errors import Corrupt
from dedupfs.core.format import CHUNK, FINGERPRINT_BYTES, U32, pair_key, unpack_pair
from dedupfs.core.types import SegmentId

if TYPE_CHECKING:
    from dedupfs.store.txn import Txn


class Chunk(NamedTuple):
    """Where a fingerprint's bytes are."""

    segment: SegmentId
    offset: int
    length: int


def find(txn: Txn, fingerprint: bytes) -> Chunk | None:
    """Return where bytes of this fingerprint are stored, or None."""
    raw = txn.get("chunks", fingerprint)
    if raw is None:
        return None
    if len(raw) != CHUNK.size:
        raise Corrupt(f"chunk: {len(raw)} bytes, want {CHUNK.size}")
    return Chunk(*CHUNK.unpack(raw))


def register(txn: Txn, fingerprint: bytes, chunk: Chunk) -> None:
    """Make `chunk` findable; the first holder of a fingerprint keeps it."""
    if txn.append("chunks", fingerprint, CHUNK.pack(*chunk)):
        key = pair_key(chunk.segment, chunk.offset)
        value = U32.pack(chunk.length) + fingerprint
        if not txn.append("chunk_at", key, value):
            txn.put("chunk_at", key, value)


def forget(txn: Txn, segment: SegmentId, start: int, stop: int) -> None:
    """Remove every chunk that has bytes in `start..stop` from the index."""
    for chunk, fingerprint in overlapping(txn, segment, start, stop):
        txn.delete("chunk_at", pair_key(segment, chunk.offset))
        txn.delete("chunks", fingerprint)


def overlapping(txn: Txn, segment: SegmentId, start: int, stop: int) -> list[tuple[Chunk, bytes]]:
    """Return the chunks that have bytes in `start..stop`, with their fingerprints, in order."""
    found: list[tuple[Chunk, bytes]] = []
    before = txn.floor("chunk_at", pair_key(segment, start))
    if before is not None and unpack_pair(before[0])[0] == segment:
        chunk, name = _unpack(*before)
        if chunk.offset + chunk.length > start:
            found.append((chunk, name))
    rows = txn.scan("chunk_at", pair_key(segment, start + 1), pair_key(segment, stop))
    found.extend(_unpack(key, value) for key, value in rows)
    return found


def _unpack(key: bytes, value: bytes) -> tuple[Chunk, bytes]:
    if len(value) != U32.size + FINGERPRINT_BYTES:
        raise Corrupt(f"chunk place: {len(value)} bytes, want {U32.size + FINGERPRINT_BYTES}")
    segment, offset = unpack_pair(key)
    (length,) = U32.unpack_from(value)
    return Chunk(SegmentId(segment), offset, length), value[U32.size :]
