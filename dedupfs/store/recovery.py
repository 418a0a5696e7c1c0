"""What a start does about a process that was killed: no scan of data, only of names.

A killed process loses no commit, so the index is whole; segments may have more bytes than it
knows of, and there may be segment files it never learned of.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from dedupfs.core.format import SEGMENT, U64, pair_key, unpack_pair
from dedupfs.core.intervals import gaps
from dedupfs.core.types import FILE_MAX_BYTES, SegmentId
from dedupfs.store import healing, shares
from dedupfs.store.segments import OPEN, SEALED, SegmentRow

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.store.index import Index
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn

log = logging.getLogger(__name__)


def recover(index: Index, segments: Segments, folder: Path) -> None:
    """Seal what was open, cut it back to its last referenced byte, remove unknown files."""
    with index.write() as txn:
        known: set[str] = set()
        for key, value in list(txn.scan("segments", b"")):
            segment = SegmentId(U64.unpack(key)[0])
            row = SegmentRow(*SEGMENT.unpack(value))
            known.add(segments.path(segment).name)
            if row.state == OPEN:
                _seal(txn, segments, segment)
            healing.note_missing(txn, segments, segment)
    for path in folder.iterdir():
        if path.name not in known:
            log.info("removing segment %s: the index does not know it", path.name)
            path.unlink()


def _seal(txn: Txn, segments: Segments, segment: SegmentId) -> None:
    last = txn.floor("shares", pair_key(segment, FILE_MAX_BYTES))
    stop = 0
    if last is not None and unpack_pair(last[0])[0] == segment:
        row = shares.rows(txn, segment, unpack_pair(last[0])[1], unpack_pair(last[0])[1] + 1)[-1]
        stop = row.stop
    path = segments.path(segment)
    try:
        if path.stat().st_size > stop:
            os.truncate(path, stop)
        allocated = path.stat().st_blocks * 512
    except FileNotFoundError:
        log.error("segment %s has no file: what it held cannot be read", path.name)  # noqa: TRY400
        allocated = 0
    segments.put_row(txn, segment, SegmentRow(SEALED, stop, allocated))
    used = [(row.start, row.stop) for row in shares.rows(txn, segment, 0, stop)]
    for start, end in gaps(used, 0, stop):
        shares.note_free(txn, segment, start, end)
    if not stop:
        segments.forget(txn, segment).unlink(missing_ok=True)
