"""Segment files that the index does not know: kept as files in lost+found."""

from __future__ import annotations

import stat
from functools import partial
from typing import TYPE_CHECKING

from dedupfs.core.format import STORE_FILES, Extent
from dedupfs.core.types import ROOT_INO, SegmentId
from dedupfs.store import namespace
from dedupfs.store.fsck import lost
from dedupfs.store.fsck.findings import Problem
from dedupfs.store.fsck.media import data_ranges, put_row
from dedupfs.store.fsck.names import blank
from dedupfs.store.fsck.space import put_extent
from dedupfs.store.segments import SEALED, SegmentRow

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from pathlib import Path

    from dedupfs.store.txn import Txn


def problem(folder: Path, segment: int, found: os.stat_result) -> Problem:
    """Return the problem that a segment file is unknown; its fix makes a file of it."""
    detail = f"segment {segment:016x}, {found.st_size} bytes, is not in the index"
    path = folder / f"{segment:016x}"
    ranges = data_ranges(path, found.st_size) if found.st_size else []
    fix = partial(adopt, segment=SegmentId(segment), found=found, ranges=ranges)
    out = Problem("stray", detail, segment=segment, fix=fix)
    out.repaired = ""
    return out


def adopt(
    txn: Txn, *, segment: SegmentId, found: os.stat_result, ranges: list[tuple[int, int]]
) -> None:
    """Make a file in lost+found of `ranges` of a segment; counts are mended by the next look."""
    put_row(txn, segment, SegmentRow(SEALED, found.st_size, found.st_blocks * 512))
    if not ranges:
        return
    target = lost.folder(txn)
    root = namespace.get_inode(txn, ROOT_INO)
    inode = blank(stat.S_IFREG | 0o600, size=found.st_size)
    inode.uid, inode.gid, inode.mtime_ns = root.uid, root.gid, found.st_mtime_ns
    inode.atime_ns = inode.ctime_ns = inode.mtime_ns
    inode.mapped_bytes = sum(stop - start for start, stop in ranges)
    ino = namespace.add_inode(txn, inode)
    lost.add(txn, target, b"segment-%016x" % segment, ino)
    for start, stop in ranges:
        put_extent(txn, ino, Extent(start, segment, start, stop - start))


def remove(path: Path, segments: Iterable[int]) -> None:
    """Remove files of a killed process that no acknowledged operation refers to."""
    for segment in segments:
        (path / STORE_FILES["segments"] / f"{segment:016x}").unlink(missing_ok=True)
