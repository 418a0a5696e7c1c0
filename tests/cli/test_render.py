"""The table for people: a wrong unit or saving misleads about disk space."""

from __future__ import annotations

import io
from pathlib import Path

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
