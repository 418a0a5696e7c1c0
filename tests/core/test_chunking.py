"""If these fail, shifted data is stored again, or an old store's chunks are never found."""

from __future__ import annotations

import hashlib
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedupfs.core import chunking
from dedupfs.core.chunking import (
    CHUNK_AVERAGE_BYTES,
    CHUNK_MAX_BYTES,
    CHUNK_MIN_BYTES,
    begin_cut,
    cut,
    fingerprint,
    reference_cut,
)

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


needs_extension = pytest.mark.skipif(chunking._extension is None, reason="no C extension here")

# Chances for cuts at the edges of everything: few byte values repeat hashes, zeros have none.
contents = st.builds(
    lambda seed, values, size: bytes(byte % values for byte in random.Random(seed).randbytes(size)),
    st.integers(0, 1000),
    st.sampled_from([1, 2, 3, 256]),
    st.one_of(
        st.integers(0, 600_000),
        st.sampled_from([CHUNK_MIN_BYTES, CHUNK_AVERAGE_BYTES, CHUNK_MAX_BYTES]).flatmap(
            lambda size: st.integers(size - 2, size + 2)
        ),
    ),
)


@needs_extension
@settings(max_examples=100, deadline=None)
@given(data=contents)
def test_the_extension_cuts_as_the_reference(data: bytes) -> None:
    want = list(reference_cut(data))
    assert list(cut(data)) == want
    assert list(cut(memoryview(data))) == want


@needs_extension
@settings(max_examples=50, deadline=None)
@given(data=contents, edges=st.lists(st.integers(0, 600_000), max_size=5))
def test_a_thread_joins_cuts_and_names_as_the_caller_would(data: bytes, edges: list[int]) -> None:
    places = [0, *sorted(min(edge, len(data)) for edge in edges), len(data)]
    parts = [data[start:stop] for start, stop in itertools.pairwise(places)]
    begun = begin_cut(parts)
    assert begun is not None
    found = begun.result()
    assert found.data == data
    assert found.lengths == list(reference_cut(data))
    at = 0
    for length, name in zip(found.lengths, found.names, strict=True):
        assert name == fingerprint(data[at : at + length])
        at += length


@needs_extension
def test_cuts_that_nobody_waits_for_do_no_harm() -> None:
    begun = [begin_cut([DATA[: at + 100_000], b"x" * at]) for at in range(0, 2_000_000, 50_000)]
    del begun[::2]
    assert all(one is not None and sum(one.result().lengths) >= 100_000 for one in begun)
