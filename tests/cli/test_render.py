"""The table for people: a wrong unit or saving misleads about disk space."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dedupfs.cli import render
from dedupfs.core.format import Counters
from dedupfs.service import status


def test_the_saving_of_four_equal_ranks() -> None:
    assert render.saving(4 << 30, 1 << 30) == "3.0 GiB (75.0 %)"
    assert render.saving(0, 0) == "nothing yet"
    assert render.saving(6, 4096) == "nothing yet"


def test_a_live_mount_as_a_table() -> None:
    counters = Counters(files=4, directories=1, logical_bytes=4 << 20, allocated_bytes=1 << 20,
                        pending_free_bytes=4096, collisions=1)  # fmt: skip
    live = status.LiveMount(
        Path("/mnt/c"), 77, 125, "writeback", "asked for", {"read": 1, "write": 2}
    )
    document = status.document(counters, store=Path("/s"), index_bytes=8192, live=live)
    console = Console(width=120, file=io.StringIO())
    console.print(render.view(document))
    text = console.file.getvalue()
    for part in (
        "/mnt/c", "pid 77, up 2 min 5 s, 3 requests", "4 in 1 folders", "4.0 MiB",
        "4.0 KiB about to be freed", "3.0 MiB (75.0 %), ratio 4.0", "collisions",
    ):  # fmt: skip
        assert part in text


def test_a_path_that_looks_like_markup_is_shown_as_it_is() -> None:
    document = status.document(
        Counters(), store=Path("/s/[bold]x[/bold]"), index_bytes=0, live=None
    )
    console = Console(width=120, file=io.StringIO())
    console.print(render.view(document))
    assert "/s/[bold]x[/bold]" in console.file.getvalue()


@pytest.mark.parametrize(
    ("part", "text"),
    [(0, "    "), (0.0001, "▏   "), (0.5, "██  "), (0.53, "██▏ "), (1, "████"), (7, "████")],
)
def test_bars(part: float, text: str) -> None:
    assert render.bar(part, 4, is_plain=False) == text


def test_bars_without_block_characters() -> None:
    assert [render.bar(part, 4, is_plain=True) for part in (0, 0.01, 0.5, 1)] == [
        "....", "#...", "##..", "####",
    ]  # fmt: skip


def shown(document: dict[str, object], width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(render.view(document))
    return console.file.getvalue()  # type: ignore[attr-defined]


def live() -> dict[str, object]:
    counters = Counters(files=4, logical_bytes=8 << 30, allocated_bytes=1 << 30)
    mount = status.LiveMount(Path("/mnt/c"), 77, 125, "writeback", "asked for", {"read": 1})
    return status.document(counters, store=Path("/s"), index_bytes=8192, live=mount)


def test_limits_say_how_near_they_are_and_what_was_evicted() -> None:
    document = live() | {
        "limits": {
            "capacity_bytes": 2 << 30, "min_free_bytes": 1 << 30, "min_free_is_goal": True,
            "max_files": 1000, "low_mark": 0.9, "high_mark": 0.95, "policy": "lru",
            "evict_depth": 1, "pressure": 0.5, "owners": "unknown: another pid namespace",
        },
        "evictions": {"units": 3, "bytes": 5 << 20, "files": 9, "last": None},
    }  # fmt: skip
    text = " ".join(shown(document).split())
    assert "2.0 GiB, 50 % used" in text
    assert "at 50 %, evicts above 95 % down to 90 %" in text
    assert "goal: 1.0 GiB left free" in text
    assert "unknown: another pid namespace" in text
    assert "3 units, 5.0 MiB freed" in text


def units(*names: str) -> list[dict[str, object]]:
    return [
        {
            "path": name, "logical_bytes": 98 << 30, "exclusive_bytes": 3 << 20,
            "shared_bytes": 97 << 30, "files": 12,
            "shared_with": [{"path": other, "bytes": 97 << 30} for other in names if other != name],
        }
        for name in names
    ]  # fmt: skip


def test_units_and_how_many_more_there_are() -> None:
    document = live() | {"units": units("rank0", "rank1", "rank2"), "units_count": 12_345}
    document["units_as_of_s"] = 12.4
    text = shown(document)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "12,345 units, as of 12 s ago" in text
    assert "and 12,342 more: --units all" in text
    line = next(line for line in text.splitlines() if line.startswith("rank2"))
    assert line.split()[1:6] == ["98.0", "GiB", "3.0", "MiB", "12"]
    assert "rank0 and 1 more" in line


def test_names_that_are_no_text_are_one_line() -> None:
    assert render.path_text("a\nb") == r"'a\nb'"
    assert render.path_text("x\udcff") == r"'x\udcff'"
    assert render.path_text(None) == "(removed meanwhile)"
    document = live() | {"units": units("a\n\x1b[31mred"), "units_count": 1}
    assert "\x1b" not in shown(document)


def test_what_keeps_a_unit_stands_behind_its_name() -> None:
    assert render.marks({"pinned": None, "open_files": None, "owner": None}) == ""
    assert render.marks({"pinned": True, "open_files": 2}) == " (pinned, 2 open)"
    assert render.marks({"owner": {"pid": 7, "alive": True}}) == ""
    assert render.marks({"owner": {"pid": 7, "alive": False}}) == " (owner gone)"


def test_a_disk_with_no_room_left_is_not_told_in_millions_of_percent() -> None:
    assert render.percent_full(0.5) == "50 %"
    assert render.percent_full(9_538_508.0) == "over 1000 %"
