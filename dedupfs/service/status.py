"""The status document: what a mount or a store holds and saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dedupfs.core.format import Counters


@dataclass(frozen=True, slots=True)
class LiveMount:
    """What only a running daemon knows."""

    mountpoint: Path
    pid: int
    uptime_s: int
    io_mode: str
    io_reason: str
    requests: Mapping[str, int] = field(default_factory=dict)
    listings_reason: str | None = None  # why the kernel keeps no listings, None when it does
    read_bytes: int = 0  # through the daemon
    limits: Mapping[str, object] = field(default_factory=dict)  # of service.evicting
    evictions: Mapping[str, object] = field(default_factory=dict)


def dedup_ratio(*, logical_bytes: int, allocated_bytes: int) -> float:
    """Return how many bytes of files one byte on disk carries; 1.0 for an empty store."""
    return round(logical_bytes / allocated_bytes, 4) if allocated_bytes > 0 else 1.0


def document(
    counters: Counters, *, store: Path, index_bytes: int, live: LiveMount | None
) -> dict[str, object]:
    """Return the JSON document of `dedupfs status`; sizes are bytes, integers."""
    return {
        "mountpoint": str(live.mountpoint) if live else None,
        "store": str(store),
        "pid": live.pid if live else None,
        "uptime_s": live.uptime_s if live else None,
        "io_mode": live.io_mode if live else None,
        "io_reason": live.io_reason if live else "not mounted",
        "listings_cached": live.listings_reason is None if live else None,
        "listings_reason": live.listings_reason if live else "not mounted",
        "files": counters.files,
        "directories": counters.directories,
        "logical_bytes": counters.logical_bytes,
        "live_bytes": counters.live_bytes,
        "allocated_bytes": counters.allocated_bytes,
        "pending_free_bytes": counters.pending_free_bytes,
        "damaged_bytes": counters.damaged_bytes,
        "index_bytes": index_bytes,
        "dedup_ratio": dedup_ratio(
            logical_bytes=counters.logical_bytes, allocated_bytes=counters.allocated_bytes
        ),
        "ingest": {
            "followed_bytes": counters.followed_bytes,
            "matched_bytes": counters.matched_bytes,
            "unique_bytes": counters.unique_bytes,
            "zero_bytes": counters.zero_bytes,
            "collisions": counters.collisions,
            "healed_chunks": counters.healed_chunks,
        },
        "limits": dict(live.limits) if live and live.limits else None,
        "evictions": dict(live.evictions) if live and live.evictions else None,
        "requests": dict(live.requests) if live else {},
        "read_bytes": live.read_bytes if live else None,
    }
