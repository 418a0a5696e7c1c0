"""If these fail, a store cannot be read back as it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.core import format as fmt
from dedupfs.core.errors import Corrupt
from dedupfs.core.types import Ino, SegmentId

if TYPE_CHECKING:
    from collections.abc import Callable

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)


@given(
    st.builds(
        fmt.Inode, U32, U32, U32, U32, U64, U64, U64, I64, I64, I64, U64, st.binary(max_size=90)
    )
)
def test_an_inode_comes_back(inode: fmt.Inode) -> None:
    assert fmt.Inode.unpack(inode.pack()) == inode


def test_counters_come_back() -> None:
    counters = fmt.Counters(*range(len(fmt.COUNTER_NAMES)))
    assert fmt.Counters.unpack(counters.pack()) == counters


@given(U64, U64, U64, U64)
def test_pair_keys_sort_as_their_numbers_do(a: int, b: int, c: int, d: int) -> None:
    assert (fmt.pair_key(a, b) < fmt.pair_key(c, d)) == ((a, b) < (c, d))
    assert fmt.unpack_pair(fmt.pair_key(a, b)) == (a, b)


def test_an_extent_knows_its_shift_and_stop() -> None:
    key, raw = fmt.pair_key(Ino(7), 100), fmt.EXTENT.pack(3, 40, 10)
    extent = fmt.unpack_extent(key, raw)
    assert extent == fmt.Extent(100, SegmentId(3), 40, 10)
    assert (extent.stop, extent.shift) == (110, -60)


@pytest.mark.parametrize(
    ("parse", "raw"),
    [
        (fmt.Inode.unpack, b"x" * (fmt.INODE.size - 1)),
        (fmt.Counters.unpack, b""),
        (fmt.unpack_pair, b"1234567"),
        (fmt.unpack_dirent, b"x" * 17),
        (fmt.unpack_cookie_entry, b"x" * 8),
        (lambda raw: fmt.unpack_extent(fmt.pair_key(1, 2), raw), b"x" * 23),
    ],
)
def test_damaged_rows_are_reported_with_want_and_have(
    parse: Callable[[bytes], object], raw: bytes
) -> None:
    with pytest.raises(Corrupt, match=rf"{len(raw)} bytes, want"):
        parse(raw)
