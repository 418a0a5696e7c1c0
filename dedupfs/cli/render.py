"""Figures for people: sizes, ages, bars, and the status of a mount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dedupfs.core.quantities import duration, size

if TYPE_CHECKING:
    from collections.abc import Mapping

_BAR: Final = 24
_EIGHTHS: Final = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_PARTNERS_SHOWN: Final = 1
_PRESSURE_TOLD: Final = 10


def saving(logical_bytes: int, allocated_bytes: int) -> str:
    """Return what deduplication saves, e.g. `3.0 GiB (75.0 %)`."""
    saved = logical_bytes - allocated_bytes
    if saved <= 0:
        return "nothing yet"
    return f"{size(saved)} ({100 * saved / logical_bytes:.1f} %)"


def ago(seconds: float) -> str:
    """Return how old something is, e.g. `as of 12 s ago`."""
    return f"as of {duration(int(seconds))} ago" if seconds >= 1 else "as of now"


def bar(part: float, width: int, *, is_plain: bool) -> str:
    """Return a bar of `part` of `width`, from 0 to 1; something above 0 is seen."""
    eighths = round(max(0.0, min(part, 1.0)) * width * 8)
    eighths = max(eighths, 1) if part > 0 else 0
    if is_plain:
        return ("#" * max(eighths // 8, int(eighths > 0))).ljust(width, ".")
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).ljust(width)


def view(document: Mapping[str, object], *, is_plain: bool = False) -> Group:
    """Return one store's status: figures, and its biggest units."""
    parts: list[Table | Text] = [_summary(document, is_plain=is_plain)]
    listed = document.get("units")
    if isinstance(listed, list) and listed:
        parts.append(_units_table(document, listed))
        more = _number(document, "units_count") - len(listed)
        if more > 0:
            parts.append(Text(f"and {more:,} more: --units all", style="dim"))
    return Group(*parts)


def _summary(document: Mapping[str, object], *, is_plain: bool) -> Table:
    # Text, not str: a path with brackets is no markup.
    title = Text(str(document["mountpoint"] or document["store"]), style="bold")
    out = Table(box=None, show_header=False, title=title, title_justify="left", pad_edge=False)
    out.add_column(style="cyan", no_wrap=True)
    out.add_column(overflow="fold")
    for name, value in _rows(document, is_plain=is_plain):
        out.add_row(name, Text(value))
    return out


def _units_table(document: Mapping[str, object], listed: list[Mapping[str, object]]) -> Table:
    """Return the biggest units as a table."""
    count = _number(document, "units_count")
    as_of = document.get("units_as_of_s")
    age = ago(as_of) if isinstance(as_of, int | float) else ""
    title = Text(f"\n{count:,} units, {age}" if count > 1 else f"\n1 unit, {age}", style="bold")
    out = Table(box=None, title=title, title_justify="left", header_style="cyan", pad_edge=False)
    out.add_column("unit", overflow="fold", min_width=8, ratio=2)
    out.add_column("written", justify="right", no_wrap=True)
    out.add_column("its own", justify="right", no_wrap=True)
    out.add_column("files", justify="right", no_wrap=True)
    out.add_column("shared with", overflow="fold", ratio=3)
    for unit in listed:
        out.add_row(
            Text(path_text(unit["path"]) + marks(unit)),
            size(_number(unit, "logical_bytes")),
            size(_number(unit, "exclusive_bytes")),
            f"{_number(unit, 'files'):,}",
            Text(partners(unit)),
        )
    return out


def marks(unit: Mapping[str, object]) -> str:
    """Return what keeps a unit, or makes it the first to go, e.g. ` (pinned)`; often nothing."""
    words = ["pinned"] if unit.get("pinned") else []
    if _number(unit, "open_files"):
        words.append(f"{_number(unit, 'open_files'):,} open")
    owner = unit.get("owner")
    if isinstance(owner, dict) and owner.get("alive") is False:
        words.append("owner gone")
    return f" ({', '.join(words)})" if words else ""


def path_text(path: object) -> str:
    """Return a path as one line of text: names may hold line breaks, and bytes that are no text."""
    if path is None:
        return "(removed meanwhile)"
    text = str(path) or "."
    return text if text.isprintable() else ascii(text)


def facts(document: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return a status as names and values, without bars."""
    return _rows(document, is_plain=False, has_bars=False)


def partners(unit: Mapping[str, object]) -> str:
    """Return e.g. `rank1 and 2 more, 97.9 GiB each`: equal sizes are said once."""
    listed = unit.get("shared_with")
    groups: dict[str, list[str]] = {}
    for other in listed if isinstance(listed, list) else []:
        groups.setdefault(size(_number(other, "bytes")), []).append(path_text(other["path"]))
    parts = [
        f"{names[0]} and {len(names) - 1} more, {amount} each"
        if len(names) > 1
        else f"{names[0]} {amount}"
        for amount, names in groups.items()
    ]
    more = ["…"] if len(parts) > _PARTNERS_SHOWN else []
    return "; ".join(parts[:_PARTNERS_SHOWN] + more)


def _number(document: Mapping[str, object], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0


def _rows(
    document: Mapping[str, object], *, is_plain: bool, has_bars: bool = True
) -> list[tuple[str, str]]:
    logical = _number(document, "logical_bytes")
    allocated = _number(document, "allocated_bytes")
    damaged = _number(document, "damaged_bytes")
    ingest = document.get("ingest")
    taken = ingest if isinstance(ingest, dict) else {}
    limits = document.get("limits")
    limit = _number(limits, "capacity_bytes") if isinstance(limits, dict) else 0
    most = max(logical, allocated, limit, 1)

    def against(count: int, text: str) -> str:
        if not has_bars:
            return f"{size(count)}{text}"
        return f"{bar(count / most, _BAR, is_plain=is_plain)} {size(count):>10}{text}"

    waiting = _number(document, "pending_free_bytes")
    freed = f", {size(waiting)} about to be freed" if waiting else ""
    index = f", index {size(_number(document, 'index_bytes'))}"
    return [
        *([("store", str(document["store"]))] if document["mountpoint"] else []),
        *_live_rows(document),
        (
            "files",
            f"{_number(document, 'files'):,} in {_number(document, 'directories'):,} folders",
        ),
        ("content", against(logical, "")),
        ("on disk", against(allocated, f"{freed}{index}")),
        *([("limit", against(limit, f", {100 * allocated / limit:.0f} % used"))] if limit else []),
        ("saved", f"{saving(logical, allocated)}, ratio {document['dedup_ratio']}"),
        ("written", _written(taken)),
        *eviction_rows(document),
        *_trouble_rows(taken),
        *([("damaged", f"{size(damaged)}: dedupfs scrub names the files")] if damaged else []),
    ]


def eviction_rows(document: Mapping[str, object]) -> list[tuple[str, str]]:
    """Say how full it is by the limits in force, and what was evicted."""
    rows: list[tuple[str, str]] = []
    limits, evicted = document.get("limits"), document.get("evictions")
    if isinstance(limits, dict):
        words = [f"capacity {size(limits['capacity_bytes'])}"] if limits["capacity_bytes"] else []
        if limits.get("max_files"):
            words.append(f"{limits['max_files']:,} files")
        if limits.get("min_free_bytes"):
            kind = "goal: " if limits.get("min_free_is_goal") else ""
            words.append(f"{kind}{size(limits['min_free_bytes'])} left free")
        pressure = limits.get("pressure")
        if words and isinstance(pressure, int | float):
            low, high = (100 * limits.get(key, 0) for key in ("low_mark", "high_mark"))
            marks = f"at {percent_full(pressure)}, evicts above {high:.0f} % down to {low:.0f} %"
            rows.append(("limits", f"{', '.join(words)}: {marks}"))
        if str(limits.get("owners", "known")) != "known":
            rows.append(("owners", str(limits["owners"])))
    if isinstance(evicted, dict) and evicted.get("units"):
        rows.append(
            ("evicted", f"{evicted['units']:,} units, {size(_number(evicted, 'bytes'))} freed")
        )
    return rows


def percent_full(pressure: float) -> str:
    """Say how full by a limit; beyond 10 times it (a disk with no room left) not how much."""
    return (
        f"{100 * pressure:.0f} %" if pressure < _PRESSURE_TOLD else f"over {100 * _PRESSURE_TOLD} %"
    )


def _written(taken: Mapping[str, object]) -> str:
    shared = _number(taken, "followed_bytes") + _number(taken, "matched_bytes")
    new, zeros = _number(taken, "unique_bytes"), _number(taken, "zero_bytes")
    return f"{size(shared)} shared, {size(new)} new, {size(zeros)} zeros"


def _live_rows(document: Mapping[str, object]) -> list[tuple[str, str]]:
    if document["pid"] is None:
        dead = document.get("dead_mount")
        died = f"none: it has died; `dedupfs mount {dead}` clears the dead mount"
        return [("daemon", died if dead else "none: not mounted")]
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
