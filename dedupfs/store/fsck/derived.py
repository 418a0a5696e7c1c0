"""What can be made anew from the extents: the chunk index, frees, counters."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from dedupfs.core.format import CHUNK, SHARE, U32, U64, pair_key, unpack_pair
from dedupfs.core.types import FILE_MAX_BYTES
from dedupfs.store.fsck.findings import Problem
from dedupfs.store.fsck.rows import sound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dedupfs.store.fsck.findings import Progress
    from dedupfs.store.txn import Txn

_STEP: Final = 1 << 15


def check_chunks(txn: Txn, progress: Progress) -> list[Problem]:
    """Check the chunk index, its reverse, and that each chunk is in use."""
    found = []
    intact = 0
    total = txn.rows("chunk_at")
    left = covers(txn)
    cover = next(left, None)
    for done, (key, value) in enumerate(sound(txn, "chunk_at")):
        segment, offset = unpack_pair(key)
        (length,) = U32.unpack_from(value)
        while cover is not None and (cover[0], cover[2]) <= (segment, offset):
            cover = next(left, None)
        name = value[U32.size :]
        is_used = (
            cover is not None
            and cover[0] == segment
            and cover[1] <= offset
            and offset + length <= cover[2]
        )
        is_found = txn.get("chunks", name) == CHUNK.pack(segment, offset, length)
        intact += is_found
        if not (is_used and is_found and length):
            why = "which nobody uses" if is_found else "which is stored elsewhere"
            detail = f"chunk of {length} bytes at {offset} of segment {segment:x}, {why}"
            fix = partial(_forget, key=key, name=name if is_found else None)
            found.append(Problem("chunk", detail, segment=segment, fix=fix))
        if done % _STEP == 0:
            progress("chunks", done, total)
    if intact != txn.rows("chunks"):
        found += _without_place(txn)
    return found


def covers(txn: Txn) -> Iterator[tuple[int, int, int]]:
    """Yield the used ranges of all segments: segment, start, stop, as long as can be."""
    segment, start, stop = -1, 0, 0
    for key, value in sound(txn, "shares"):
        owner, first = unpack_pair(key)
        if (owner, first) != (segment, stop):
            if stop > start:
                yield segment, start, stop
            segment, start = owner, first
        stop = first + SHARE.unpack(value)[0]
    if stop > start:
        yield segment, start, stop


def _without_place(txn: Txn) -> list[Problem]:
    found = []
    for name, value in sound(txn, "chunks"):
        segment, offset, length = CHUNK.unpack(value)
        if txn.get("chunk_at", pair_key(segment, offset)) != U32.pack(length) + name:
            detail = f"chunk {name.hex()} has no place in segment {segment:x}"
            fix = partial(_forget, key=None, name=name)
            found.append(Problem("chunk", detail, segment=segment, fix=fix))
    return found


def _forget(txn: Txn, *, key: bytes | None, name: bytes | None) -> None:
    # Nothing is lost: at worst the same bytes are stored a second time.
    if key is not None:
        txn.delete("chunk_at", key)
    if name is not None:
        txn.delete("chunks", name)


def check_frees(txn: Txn) -> list[Problem]:
    """Check that no range to be freed is out of bounds."""
    found = []
    for key, value in sound(txn, "frees"):
        segment, start = unpack_pair(key)
        (length,) = U64.unpack(value)
        if not 0 < length <= FILE_MAX_BYTES or start + length > FILE_MAX_BYTES + (1 << 20):
            detail = f"{length} bytes at {start} of segment {segment:x} are to be freed"
            fix = partial(_delete_free, key=key)
            found.append(Problem("free", detail, segment=segment, fix=fix))
    return found


def _delete_free(txn: Txn, *, key: bytes) -> None:
    txn.delete("frees", key)


def check_counters(txn: Txn, sums: Mapping[str, int], at_least: Mapping[str, int]) -> list[Problem]:
    """Compare counters with what was summed; `at_least` are the bounds of the `next_` ones."""
    found = []
    for name, want in sums.items():
        have = getattr(txn.counters, name)
        if have != want:
            detail = f"counter {name} says {have}, counted anew it is {want}"
            found.append(Problem("counter", detail, fix=partial(_set, name=name, value=want)))
    for name, want in at_least.items():
        have = getattr(txn.counters, name)
        if not want <= have < 1 << 62:
            detail = f"counter {name} says {have}, {want - 1} is in use"
            found.append(Problem("counter", detail, fix=partial(_set, name=name, value=want)))
    return found


def _set(txn: Txn, *, name: str, value: int) -> None:
    setattr(txn.counters, name, value)
