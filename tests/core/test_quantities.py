"""A size read wrongly is a limit a thousand times off; what is shown must parse to the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedupfs.core import quantities as q


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0), ("4096", 4096), ("1k", 1024), ("1 KiB", 1024), ("500M", 500 << 20), ("200G", 200 << 30),
        ("200GB", 200 << 30), ("1.5TiB", 3 << 39), ("2p", 2 << 50), (" 7b ", 7),
        ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_sizes_are_binary_and_exact(text: str, size_bytes: int) -> None:
    assert q.parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1 G G", "1e3", "nan", "1,5G", "9999999P"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        q.parse_size(text or " ")


def test_rates() -> None:
    assert q.parse_rate("50M/s") == q.parse_rate("50M") == 50 << 20
    assert q.parse_rate("1.5GiB/s") == 3 << 29


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5", 0.5), ("10m", 600), ("2h", 7200), ("7d", 604800), ("1w", 604800), ("1.5 h", 5400)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert q.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5", "1y", "inf", "nan", "1h30m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no time"):
        q.parse_duration(text or " ")


def test_marks_as_percent_or_as_a_part() -> None:
    assert q.parse_fraction("90%") == q.parse_fraction("0.9") == 0.9
    assert q.parse_fraction("100 %") == q.parse_fraction("1") == 1
    for wrong in ("90", "101%", "-1%", "%", "nan"):
        with pytest.raises(ValueError, match="no share"):
            q.parse_fraction(wrong)


def test_free_space_as_a_part_or_in_bytes() -> None:
    assert q.parse_min_free("5%") == q.parse_min_free("0.05") == q.MinFree(fraction=0.05)
    assert q.parse_min_free("20G") == q.MinFree(fixed_bytes=20 << 30)
    assert q.MinFree(fraction=0.05).of(1000) == 50
    assert q.MinFree(fixed_bytes=7).of(1000) == 7
    with pytest.raises(ValueError, match="100%"):
        q.parse_min_free("100%")


@given(st.integers(0, q.SIZE_MAX_BYTES))
def test_a_size_typed_out_is_the_same_size(size_bytes: int) -> None:
    assert q.parse_size(q.typed_size(size_bytes)) == size_bytes


@given(st.floats(0, 1e15))
def test_a_duration_typed_out_is_the_same_duration(seconds: float) -> None:
    assert q.parse_duration(q.typed_duration(seconds)) == seconds


@given(st.floats(0, 1, exclude_max=True))
def test_a_fraction_typed_out_is_the_same_fraction(fraction: float) -> None:
    assert q.parse_fraction(q.typed_fraction(fraction)) == fraction
    assert q.parse_min_free(q.typed_min_free(q.MinFree(fraction=fraction))).of(1 << 50) == int(
        fraction * (1 << 50)
    )


def test_what_is_typed_out_is_short() -> None:
    assert q.typed_size(200 << 30) == "200G"
    assert q.typed_size(1536) == "1536"
    assert q.typed_duration(600) == "10m"
    assert q.typed_duration(5) == "5"
    assert q.typed_fraction(0.07) == "7%"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"),
        (5 << 50, "5.0 PiB"), (5000 << 50, "5000.0 PiB"), (-2048, "-2.0 KiB"),
    ],
)  # fmt: skip
def test_sizes_for_reading_are_in_binary_units(count: int, text: str) -> None:
    assert q.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (61, "1 min 1 s"), (3661, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_durations_for_reading(seconds: int, text: str) -> None:
    assert q.duration(seconds) == text
