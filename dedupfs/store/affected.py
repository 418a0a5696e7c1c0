"""Which files use damaged bytes: found by a walk over all extents and names, only when asked.

The walk stops after every few thousand rows, so that others can go on; it is then about a state
that no moment had, which is good enough to tell people which files to look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.format import pair_key, unpack_cookie_entry, unpack_extent, unpack_pair
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import damage, namespace

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from dedupfs.core.format import Extent
    from dedupfs.store.index import Index
    from dedupfs.store.txn import Txn

_ROWS: Final = 2000  # about a millisecond


class DamagedFile(NamedTuple):
    """A file that cannot be read whole; `paths` are its names below the mount point, sorted."""

    ino: Ino
    damaged_bytes: int  # of the file's own, each extent counted
    paths: tuple[bytes, ...]  # none: it was unlinked and is still open


def files(index: Index) -> Generator[None, None, list[DamagedFile]]:
    """Return the files that use damaged bytes, by inode; yield between two batches of rows."""
    if not index.counters.damaged_bytes:
        return []
    found = yield from _inodes(index)
    names: dict[Ino, list[bytes]] = {ino: [] for ino in found}
    folders: dict[Ino, bytes] = {ROOT_INO: b""}
    for rows in _batches(index, "cookies"):
        with index.read() as txn:
            for key, value in rows:
                ino, name = unpack_cookie_entry(value)
                if ino in names:
                    folder = _folder(txn, Ino(unpack_pair(key)[0]), folders)
                    names[ino].append(folder + b"/" + name)
        yield
    return [DamagedFile(ino, found[ino], tuple(sorted(names[ino]))) for ino in sorted(found)]


def damaged_bytes(txn: Txn, ino: Ino) -> int:
    """Return how many bytes of a file are damaged, each extent counted."""
    if not txn.counters.damaged_bytes:
        return 0
    return sum(
        _damaged(txn, unpack_extent(key, value))
        for key, value in txn.scan("extents", pair_key(ino, 0), pair_key(ino + 1, 0))
    )


def _damaged(txn: Txn, extent: Extent) -> int:
    start = extent.segment_offset
    stop = start + extent.length
    return sum(
        min(high, stop) - max(low, start)
        for low, high in damage.overlapping(txn, extent.segment, start, stop)
    )


def _inodes(index: Index) -> Generator[None, None, dict[Ino, int]]:
    found: dict[Ino, int] = {}
    for rows in _batches(index, "extents"):
        with index.read() as txn:
            for key, value in rows:
                bad = _damaged(txn, unpack_extent(key, value))
                if bad:
                    ino = Ino(unpack_pair(key)[0])
                    found[ino] = found.get(ino, 0) + bad
        yield
    return found


def _batches(index: Index, table: str) -> Iterator[list[tuple[bytes, bytes]]]:
    start = b""
    while True:
        with index.read() as txn:
            rows = [row for row, _ in zip(txn.scan(table, start), range(_ROWS), strict=False)]
        if not rows:
            return
        yield rows
        start = rows[-1][0] + b"\0"


def _folder(txn: Txn, ino: Ino, known: dict[Ino, bytes]) -> bytes:
    """Return a folder's path."""
    path = known.get(ino)
    if path is None:
        inode = namespace.find_inode(txn, ino)
        parent = Ino(inode.parent) if inode is not None else ROOT_INO
        name = next(
            (
                entry.name
                for entry in namespace.entries(txn, parent, start=0, stop=(1 << 64) - 1)
                if entry.ino == ino
            ),
            b"?",
        )
        path = known[ino] = _folder(txn, parent, known) + b"/" + name
    return path
