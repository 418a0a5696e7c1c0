"""Status documents as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from dedupfs.core.quantities import duration, size

if TYPE_CHECKING:
    from collections.abc import Mapping


def saving(logical_bytes: int, allocated_bytes: int) -> str:
    """Return what deduplication saves, e.g. `3.0 GiB (75.0 %)`."""
    saved = logical_bytes - allocated_bytes
    if saved <= 0:
        return "nothing yet"
    return f"{size(saved)} ({100 * saved / logical_bytes:.1f} %)"


def table(document: Mapping[str, object]) -> Table:
    """Return one store's status as a table."""
    # Text, not str: a path with brackets is no markup.
    title = Text(str(document["mountpoint"] or document["store"]), style="bold")
    out = Table(show_header=False, title=title, title_justify="left")
    out.add_column(style="cyan", no_wrap=True)
    out.add_column(overflow="fold")
    for name, value in _rows(document):
        out.add_row(name, Text(value))
    return out


def _number(document: Mapping[str, object], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0


def _rows(document: Mapping[str, object]) -> list[tuple[str, str]]:
    logical = _number(document, "logical_bytes")
    allocated = _number(document, "allocated_bytes")
    waiting = _number(document, "pending_free_bytes")
    damaged = _number(document, "damaged_bytes")
    freed = f", {size(waiting)} about to be freed" if waiting else ""
    ingest = document.get("ingest")
    taken = ingest if isinstance(ingest, dict) else {}
    return [
        ("store", str(document["store"])),
        *_live_rows(document),
        (
            "files",
            f"{_number(document, 'files'):,} in {_number(document, 'directories'):,} folders",
        ),
        ("content", size(logical)),
        ("on disk", f"{size(allocated)}{freed}, index {size(_number(document, 'index_bytes'))}"),
        ("saved", f"{saving(logical, allocated)}, ratio {document['dedup_ratio']}"),
        ("written so far", _written(taken)),
        *_trouble_rows(taken),
        *([("damaged", f"{size(damaged)}: dedupfs scrub names the files")] if damaged else []),
    ]


def _written(taken: Mapping[str, object]) -> str:
    shared = _number(taken, "followed_bytes") + _number(taken, "matched_bytes")
    new, zeros = _number(taken, "unique_bytes"), _number(taken, "zero_bytes")
    return f"{size(shared)} shared, {size(new)} new, {size(zeros)} zeros"


def _live_rows(document: Mapping[str, object]) -> list[tuple[str, str]]:
    if document["pid"] is None:
        return [("daemon", "none: not mounted")]
    up = duration(_number(document, "uptime_s"))
    requests = document.get("requests")
    counts = requests.values() if isinstance(requests, dict) else ()
    total = sum(count for count in counts if isinstance(count, int))
    return [
        ("daemon", f"pid {document['pid']}, up {up}, {total:,} requests"),
        ("io mode", f"{document['io_mode']} ({document['io_reason']})"),
        *_listing_rows(document),
    ]


def _listing_rows(document: Mapping[str, object]) -> list[tuple[str, str]]:
    # Silent where all is well.
    if document.get("listings_cached") is not False:
        return []
    return [("listings", f"not kept by the kernel: {document['listings_reason']}")]


def _trouble_rows(taken: Mapping[str, object]) -> list[tuple[str, str]]:
    names = {"collisions": "collisions", "healed_chunks": "healed chunks"}
    return [(text, f"{taken[key]}") for key, text in names.items() if taken.get(key)]
