"""Sizes, times and shares as people type and read them. Pure; sizes are in binary units.

Parsers raise ValueError; the caller knows the option and says what was wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SIZE_MAX_BYTES: Final = (1 << 63) - 1
_SIZE_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_TIME_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NUMBER_PATTERN: Final = r"\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_TIME: Final = re.compile(rf"({_NUMBER_PATTERN})\s*([smhdw]?)", re.IGNORECASE)
_NUMBER: Final = re.compile(_NUMBER_PATTERN, re.IGNORECASE)
# What nobody means as bytes: a number below 1.
_PART: Final = re.compile(r"0?\.\d+|\d(?:\.\d+)?e-\d+", re.IGNORECASE)
_SHOWN_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_KIBI: Final = 1024
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86400
_PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class MinFree:
    """Free space to be left on a file system: so many bytes, or a part of its size."""

    fixed_bytes: int = 0
    fraction: float = 0.0

    def of(self, total_bytes: int) -> int:
        """Return the bytes to be left free of a file system of this size."""
        return self.fixed_bytes + int(self.fraction * total_bytes)


def parse_size(text: str) -> int:
    """Return the bytes of e.g. `200G`, `1.5TiB` or `4096`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"no size: {text}")
    number, unit = found[1], _SIZE_UNITS[found[2].lower()]
    # Whole numbers exactly: a float has 53 bits only.
    size_bytes = int(float(number) * (1 << unit)) if "." in number else int(number) << unit
    if size_bytes > SIZE_MAX_BYTES:
        raise ValueError(f"no size: {text}")
    return size_bytes


def parse_rate(text: str) -> int:
    """Return bytes a second of e.g. `50M` or `1.5GiB/s`."""
    return parse_size(text.strip().removesuffix("/s"))


def parse_duration(text: str) -> float:
    """Return the seconds of e.g. `90`, `0.5`, `10m`, `2h` or `7d`."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"no time: {text}")
    return float(found[1]) * _TIME_UNITS_S[found[2].lower()]


def parse_fraction(text: str) -> float:
    """Return 0.0 to 1.0 of e.g. `90%` or `0.9`."""
    stripped = text.strip()
    number = stripped.removesuffix("%").rstrip()
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"no share: {text}")
    fraction = float(number) / (_PERCENT if stripped.endswith("%") else 1)
    if fraction > 1:
        raise ValueError(f"no share: {text}")
    return fraction


def parse_min_free(text: str) -> MinFree:
    """Return what e.g. `5%`, `0.05` or `20G` asks to be left free."""
    stripped = text.strip()
    if not stripped.endswith("%") and not _PART.fullmatch(stripped):
        return MinFree(fixed_bytes=parse_size(stripped))
    fraction = parse_fraction(stripped)
    if fraction == 1:
        raise ValueError(f"no size or share: {text}")
    return MinFree(fraction=fraction)


def typed_size(size_bytes: int) -> str:
    """Return the shortest text from which `parse_size` makes exactly this."""
    for unit, shift in reversed(_SIZE_UNITS.items()):
        if size_bytes and size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{unit.upper()}"
    return "0"


def typed_duration(seconds: float) -> str:
    """Return a short text from which `parse_duration` makes exactly this."""
    for unit in ("d", "h", "m"):
        count, rest = divmod(seconds, _TIME_UNITS_S[unit])
        if count and not rest:
            return f"{int(count)}{unit}"
    return f"{int(seconds)}" if seconds == int(seconds) else f"{seconds!r}"


def typed_fraction(fraction: float) -> str:
    """Return a text from which `parse_fraction` makes exactly this: percent where it can be."""
    percent = f"{fraction * _PERCENT:g}%"
    return percent if parse_fraction(percent) == fraction else f"{fraction!r}"


def typed_min_free(value: MinFree) -> str:
    """Return a text from which `parse_min_free` makes exactly this."""
    return typed_fraction(value.fraction) if value.fraction else typed_size(value.fixed_bytes)


def size(count: int) -> str:
    """Return bytes in binary units for reading, e.g. `1.5 GiB`."""
    value = float(count)
    for unit in _SHOWN_UNITS:
        if abs(value) < _KIBI or unit == _SHOWN_UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= _KIBI
    raise AssertionError("the last unit ends the loop")


def duration(seconds: int) -> str:
    """Return seconds as the two greatest units for reading, e.g. `3 h 5 min`."""
    if seconds < _MINUTE_S:
        return f"{seconds} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S} min {seconds % _MINUTE_S} s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S} h {seconds % _HOUR_S // _MINUTE_S} min"
    return f"{seconds // _DAY_S} d {seconds % _DAY_S // _HOUR_S} h"
