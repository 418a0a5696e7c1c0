"""What happens a second, from two looks at a status."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_WRITTEN = ("followed_bytes", "matched_bytes", "unique_bytes", "zero_bytes")


class Rates(NamedTuple):
    """By second."""

    written_bytes: float
    read_bytes: float  # that reached the daemon
    requests: float
    operations: list[tuple[str, float]]  # the most frequent first

    @classmethod
    def between(
        cls, before: Mapping[str, object], after: Mapping[str, object], elapsed_s: float
    ) -> Self:
        """Return the rates between two statuses; a mount that began anew has none yet."""
        if elapsed_s <= 0 or before["pid"] != after["pid"]:
            return cls(0.0, 0.0, 0.0, [])

        def rate(part: str, key: str) -> float:
            return max(0, _count(after, part, key) - _count(before, part, key)) / elapsed_s

        requests = after.get("requests")
        names = requests if isinstance(requests, dict) else {}
        operations = [(name, rate("requests", name)) for name in names]
        busy = sorted((one for one in operations if one[1]), key=lambda one: -one[1])
        return cls(
            written_bytes=sum(rate("ingest", key) for key in _WRITTEN),
            read_bytes=rate("", "read_bytes"),
            requests=sum(count for _, count in busy),
            operations=busy,
        )


def _count(document: Mapping[str, object], part: str, key: str) -> int:
    inner = document.get(part) if part else document
    value = inner.get(key) if isinstance(inner, dict) else None
    return value if isinstance(value, int) else 0
