"""What the index file was when the store was closed: finds what rots while nobody looks.

LMDB keeps no checksums. At a close in order the whole of data.mdb is digested; a start compares,
and removes the digest before it changes the file. After a kill there is none.

The file `digest` beside data.mdb: DIGEST: magic 8, size u64, XXH3-128 16; then u64 checksum.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

import xxhash

from dedupfs.core.errors import Corrupt
from dedupfs.store.journal import sync_folder

if TYPE_CHECKING:
    from pathlib import Path

MAGIC: Final = b"dedupfsD"
DIGEST: Final = struct.Struct(">8sQ16s")
_NAME: Final = "digest"
_READ_BYTES: Final = 4 << 20


def write(folder: Path) -> None:
    """Note what data.mdb in `folder` is now. Raises OSError."""
    head = DIGEST.pack(MAGIC, *_digest(folder))
    unfinished = folder / f"{_NAME}.new"
    with unfinished.open("wb") as file:
        file.write(head + xxhash.xxh3_64_digest(head))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / _NAME)
    sync_folder(folder)


def check(folder: Path) -> None:
    """Raise Corrupt when data.mdb is not what it was; fine when that is not known. Raises OSError.

    A digest that is damaged itself is no digest.
    """
    try:
        raw = (folder / _NAME).read_bytes()
    except FileNotFoundError:
        return
    head = raw[: DIGEST.size]
    if len(head) != DIGEST.size or raw[DIGEST.size :] != xxhash.xxh3_64_digest(head):
        return
    if DIGEST.unpack(head) != (MAGIC, *_digest(folder)):
        raise Corrupt(f"index {folder / 'data.mdb'} has changed since it was closed")


def remove(folder: Path) -> None:
    """Forget what it was, before it is changed. The next sync of the folder makes that durable."""
    (folder / _NAME).unlink(missing_ok=True)


def _digest(folder: Path) -> tuple[int, bytes]:
    hasher, size = xxhash.xxh3_128(), 0
    with (folder / "data.mdb").open("rb", buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            hasher.update(piece)
            size += len(piece)
    return size, hasher.digest()
