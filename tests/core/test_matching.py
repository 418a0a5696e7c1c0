"""If these fail, bytes that differ are taken for equal, or equal ones are stored twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.core.matching import equal_prefix, equal_runs, equal_suffix, zero_run
from dedupfs.core.types import PAGE_BYTES


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_prefix_and_suffix_stop_at_the_first_difference(left: bytes, right: bytes) -> None:
    prefix = equal_prefix(left, right)
    assert left[:prefix] == right[:prefix]
    assert prefix == min(len(left), len(right)) or left[prefix] != right[prefix]
    suffix = equal_suffix(left, right)
    assert suffix == equal_prefix(left[::-1], right[::-1])


@given(
    st.integers(1, 5 * PAGE_BYTES),
    st.integers(0, PAGE_BYTES - 1),
    st.sets(st.integers(0, 5 * PAGE_BYTES - 1), max_size=4),
)
def test_runs_cover_all_and_equal_ones_are_equal(
    length: int, first_page: int, changed: set[int]
) -> None:
    ours = bytes(length)
    theirs = bytearray(length)
    for at in changed:
        if at < length:
            theirs[at] = 1
    runs = equal_runs(ours, bytes(theirs), first_page)
    assert [start for start, _stop, _same in runs] == [0, *(stop for _, stop, _ in runs[:-1])]
    assert runs[-1][1] == length
    for start, stop, same in runs:
        assert (ours[start:stop] == theirs[start:stop]) is same
        assert start == 0 or (start - first_page) % PAGE_BYTES == 0
    unequal = sum(stop - start for start, stop, same in runs if not same)
    assert unequal <= len(changed) * PAGE_BYTES


@pytest.mark.parametrize("before", [0, 1, PAGE_BYTES, 100_000])
@pytest.mark.parametrize("zeros", [0, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 65536, 300_000])
@pytest.mark.parametrize("after", [0, 1, 70_000])
def test_a_zero_run_is_found_whole_and_only_from_a_page_on(
    before: int, zeros: int, after: int
) -> None:
    data = b"x" * before + bytes(zeros) + b"y" * after
    want = (before, before + zeros) if zeros >= PAGE_BYTES else (len(data), len(data))
    assert zero_run(data, 0) == want
    if zeros >= 2 * PAGE_BYTES:
        assert zero_run(data, before + 10) == (before + 10, before + zeros)


@given(
    st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 3000)), max_size=5),
    st.integers(0, 12_000),
)
def test_zero_runs_are_those_a_plain_search_finds(parts: list[tuple[int, int]], start: int) -> None:
    data = b"".join(bytes(zeros) + b"x" * others for zeros, others in parts)
    start = min(start, len(data))
    first = data.find(bytes(PAGE_BYTES), start)
    stop = first
    while 0 <= stop < len(data) and data[stop] == 0:
        stop += 1
    assert zero_run(data, start) == ((first, stop) if first >= 0 else (len(data), len(data)))
