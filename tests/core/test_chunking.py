"""If these fail, shifted data is stored again, or an old store's chunks are never found."""

from __future__ import annotations

import hashlib
import random

from dedupfs.core.chunking import CHUNK_MAX_BYTES, CHUNK_MIN_BYTES, cut, fingerprint

DATA = random.Random(1).randbytes(4 << 20)


def edges(data: bytes) -> list[int]:
    at, found = 0, []
    for length in cut(data):
        at += length
        found.append(at)
    return found


def test_chunks_cover_the_data_within_their_limits() -> None:
    found = edges(DATA)
    assert found[-1] == len(DATA)
    lengths = list(cut(DATA))
    assert all(CHUNK_MIN_BYTES <= length <= CHUNK_MAX_BYTES for length in lengths[:-1])


def test_chunks_find_each_other_again_behind_inserted_bytes() -> None:
    shifted = {edge - 1000 for edge in edges(b"i" * 1000 + DATA)}
    assert len(shifted & set(edges(DATA))) > 0.9 * len(shifted)


def test_chunk_ends_and_names_are_those_of_format_1() -> None:
    # A changed parameter or library would orphan the index of every existing store.
    text = ",".join(map(str, edges(DATA))).encode()
    assert hashlib.sha256(text).hexdigest()[:16] == "fb4aaab1396f0d0c"
    assert fingerprint(b"dedupfs").hex() == "3f0b187a0da7b42509018d60ad1eefec"
