"""Whether the tables of a store agree with one another and with the segments, counted anew."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from dedupfs.core.chunking import fingerprint
from dedupfs.core.format import (
    CHUNK,
    FINGERPRINT_BYTES,
    SHARE,
    U32,
    U64,
    unpack_extent,
    unpack_pair,
)
from dedupfs.core.intervals import Counted, gaps, tally
from dedupfs.store.fsck import run

if TYPE_CHECKING:
    from dedupfs.store.store import Store

# Tests of the store alone have extents and no inodes.
_OF_NAMES = {"extent", "counter"}


def check(store: Store) -> None:  # noqa: PLR0915 - one after the other
    """Fail on the first disagreement: as fsck looks, and counted anew in another way."""
    with store.index.read() as txn:
        has_names = txn.rows("inodes") > 0
        problems = [
            problem.document()
            for problem in run.examine(store.path, txn)
            if problem.kind != "lost-bytes"  # known damage breaks no rule
            and (has_names or problem.kind not in _OF_NAMES)
        ]
    assert not problems, problems
    with store.index.read() as txn:
        extents = [
            (unpack_pair(key)[0], unpack_extent(key, value))
            for key, value in txn.scan("extents", b"")
        ]
        shares: dict[int, list[Counted]] = defaultdict(list)
        for key, value in txn.scan("shares", b""):
            segment, start = unpack_pair(key)
            length, users = SHARE.unpack(value)
            shares[segment].append(Counted(start, start + length, users))
        chunk_at = dict(txn.scan("chunk_at", b""))
        chunks = dict(txn.scan("chunks", b""))
        frees = sum(U64.unpack(value)[0] for _key, value in txn.scan("frees", b""))
        segments = {U64.unpack(key)[0] for key, _value in txn.scan("segments", b"")}
    counters = store.index.counters

    used: dict[int, list[tuple[int, int]]] = defaultdict(list)
    last: dict[int, int] = {}
    for ino, extent in extents:
        assert extent.length > 0, "an empty extent"
        assert last.get(ino, 0) <= extent.offset, f"inode {ino}: extents overlap"
        last[ino] = extent.stop
        start = extent.segment_offset
        used[extent.segment].append((start, start + extent.length))
        assert extent.segment in segments, "an extent of an unknown segment"
    recounted = {segment: tally(ranges) for segment, ranges in used.items()}
    assert recounted == shares, f"{recounted} counted anew, {dict(shares)} kept"
    assert counters.logical_bytes == sum(extent.length for _ino, extent in extents)
    assert counters.live_bytes == sum(
        row.stop - row.start for rows in shares.values() for row in rows
    )
    assert counters.pending_free_bytes == frees
    assert len(chunk_at) == len(chunks), "the chunk index and its reverse differ"
    for name, value in chunks.items():
        segment, offset, length = CHUNK.unpack(value)
        back = chunk_at[U64.pack(segment) + U64.pack(offset)]
        assert back == U32.pack(length) + name
        assert len(name) == FINGERPRINT_BYTES
        ranges = [(row.start, row.stop) for row in shares[segment]]
        assert not gaps(ranges, offset, offset + length), "a chunk nobody uses can be found"
        path = store.path / "segments" / f"{segment:016x}"
        with path.open("rb") as file:
            file.seek(offset)
            assert fingerprint(file.read(length)) == name, "a chunk's bytes are not its own"
    on_disk = sum(p.stat().st_blocks * 512 for p in (store.path / "segments").iterdir())
    assert counters.allocated_bytes == on_disk, "allocated bytes are not what the disk says"


def reclaim_all(store: Store) -> None:
    """Free everything that waits for it."""
    checkpoint = store.begin_checkpoint()
    if checkpoint is not None:
        checkpoint.write()
        store.end_checkpoint(checkpoint, succeeded=True)
    more = True
    while more:
        doomed, more = store.reclaim()
        for path in doomed:
            path.unlink(missing_ok=True)
