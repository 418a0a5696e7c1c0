"""Takes LMDB's last commit back when a power cut may have torn it.

A fold does not wait for the disk: it commits into the page cache, and the commit is synced with the
next mark of the journal begun by it (store.journal). Until then the disk may hold any part of it, the
new meta page without the tree it names, too. But the commit before it is whole: LMDB writes to none
of its pages, and the next commit comes only after that mark. So after a power cut:

- The newest journal says which commit it was begun by, durably before that commit.
- Without a mark in it, that commit is taken back: its meta page is made older than the other one.
  The journal before is still there, marked up to the last checkpoint, and is replayed.

A journal whose head cannot be read was being made: its commit had not begun.
"""

from __future__ import annotations

import logging
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.store import instance, journal

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

# MDB_page and MDB_meta of mdb.c, LMDB 0.9, as in store.pages.
_PAGE_BYTES: Final = 4096
_HEAD_BYTES: Final = 16
_META_BYTES: Final = 136
_TXN: Final = struct.Struct("<Q")
_TXN_AT: Final = _META_BYTES - _TXN.size
_PAGE_SIZE: Final = struct.Struct("<I")
_PAGE_SIZE_AT: Final = 24  # md_pad of the free list's MDB_db


class _Torn(NamedTuple):
    """Where the meta page of a commit that may be torn is, and that of the one before."""

    at: int
    before_at: int


def roll_back(index: Path, now: instance.Instance) -> bool:
    """Take the last commit back if it may be torn; return whether it did. Raises OSError.

    Before anything else reads the index in folder `index`.
    """
    torn = _find(index, now)
    if torn is None:
        return False
    with (index / journal.DATA).open("r+b") as file:
        file.seek(torn.before_at + _HEAD_BYTES)
        meta = bytearray(file.read(_META_BYTES))
        (txn,) = _TXN.unpack_from(meta, _TXN_AT)
        _TXN.pack_into(meta, _TXN_AT, max(txn - 1, 0))
        file.seek(torn.at + _HEAD_BYTES)
        file.write(meta)
        file.flush()
        os.fsync(file.fileno())
    log.warning(
        "index: the last commit was not on disk when the power went: back to the one before"
    )
    return True


def is_needed(index: Path, now: instance.Instance) -> bool:
    """Tell whether `roll_back` would change anything. Raises OSError."""
    return _find(index, now) is not None


def _find(index: Path, now: instance.Instance) -> _Torn | None:
    newest = max(index.glob("journal-*"), default=None)
    if newest is None:
        return None
    is_any_cached = instance.is_any_page_cached(newest)
    beginning = journal.beginning(newest)
    if not is_any_cached:
        instance.uncache(newest)  # whoever reads it next wants to know that, too
    if beginning is None or beginning.is_marked:
        return None
    is_lost = (index / journal.SUSPECT).exists()
    if not is_lost and not instance.is_cache_lost(
        beginning.written_by, now, is_any_cached=is_any_cached
    ):
        return None
    return _with_txn(index / journal.DATA, beginning.txn)


def _with_txn(data: Path, txn: int) -> _Torn | None:
    """Return the meta page of transaction `txn`, if it got that far, and is the last."""
    with data.open("rb") as file:
        head = file.read(_HEAD_BYTES + _META_BYTES)
        if len(head) < _HEAD_BYTES + _META_BYTES:
            return None
        (page_bytes,) = _PAGE_SIZE.unpack_from(head, _HEAD_BYTES + _PAGE_SIZE_AT)
        file.seek(page_bytes)
        second = file.read(len(head))
    found = [_TXN.unpack_from(raw, _HEAD_BYTES + _TXN_AT)[0] for raw in (head, second)]
    if max(found) != txn:  # a later one was synced, and this one before it
        return None
    at = found.index(txn)
    return _Torn(at * page_bytes, (1 - at) * page_bytes)
