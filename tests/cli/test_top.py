"""The screen of `dedupfs top` with textual's pilot: keys do what they say, the end is clean."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from textual.widgets import DataTable, Static

from dedupfs.cli.top_screen import Help, Top
from dedupfs.core.format import Counters
from dedupfs.service import status
from dedupfs.service.client import ControlError
from dedupfs.service.mounts import Mount

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from textual.pilot import Pilot

MOUNT = Mount(1, 1, 1, Path("/mnt/cache"), "fuse.dedupfs", "/s")


class Daemon:
    """Answers as the control socket would."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.is_mounted = True
        self.failure = ""
        self.written = 0
        self.units = [
            self.unit("alpha", 100, 9, 1),
            self.unit("beta", 300, 1, 5),
            self.unit("gamma [b]", 200, 5, 3),
        ]

    @staticmethod
    def unit(path: str, logical: int, own: int, files: int) -> dict[str, object]:
        return {
            "path": path, "logical_bytes": logical << 20, "exclusive_bytes": own << 20,
            "shared_bytes": (logical - own) << 20, "files": files, "pinned": None,
            "shared_with": [{"path": "beta", "bytes": 5 << 20}],
        }  # fmt: skip

    def ask(self, operation: str, request: dict[str, object]) -> dict[str, object] | None:
        self.asked.append((operation, request))
        if self.failure:
            raise ControlError(self.failure)
        if not self.is_mounted:
            return None
        if operation == "units":
            return {"units": self.units, "count": 3, "as_of_s": 12.0}
        if operation == "status":
            self.written += 1 << 20
            counters = Counters(files=9, logical_bytes=600 << 20, allocated_bytes=150 << 20,
                                unique_bytes=self.written)  # fmt: skip
            live = status.LiveMount(Path("/mnt/cache"), 7, 99, "passthrough", "", {"write": 3})
            return status.document(counters, store=Path("/s"), index_bytes=1, live=live)
        return {}


def play(daemon: Daemon, script: Callable[[Top, Pilot[None]], Awaitable[None]]) -> Top:
    """Run the screen in 80 x 24 with `script` at its keys."""
    app = Top(MOUNT, interval_s=0.05, ask=daemon.ask)

    async def run() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(app, pilot)
            await script(app, pilot)

    asyncio.run(run())
    return app


async def settled(app: Top, pilot: Pilot[None]) -> None:
    for _ in range(200):
        await pilot.pause(0.02)
        if app.query_one(DataTable).row_count and "written" in text(app, "#rates"):
            return
    raise AssertionError("nothing is shown")


def text(app: Top, selector: str) -> str:
    return str(app.screen_stack[0].query_one(selector, Static).visual)


def names(app: Top) -> list[str]:
    table = app.screen_stack[0].query_one(DataTable)
    return [str(table.get_row_at(row)[0]) for row in range(table.row_count)]


def test_what_is_shown() -> None:
    async def script(app: Top, pilot: Pilot[None]) -> None:
        assert names(app) == ["beta", "gamma [b]", "alpha"]
        assert "/mnt/cache  passthrough  up 1 min 39 s" in text(app, "#head")
        assert "saved 450.0 MiB (75.0 %)" in text(app, "#space")
        assert "MiB/s" in text(app, "#rates")
        assert "through the daemon" in text(app, "#rates")
        assert "3 units, by written, as of 12 s ago" in text(app, "#units-title")
        await pilot.press("q")

    assert play(Daemon(), script).farewell == ""


def test_s_sorts_by_one_column_after_the_other() -> None:
    async def script(app: Top, pilot: Pilot[None]) -> None:
        orders = []
        for _ in range(5):
            await pilot.press("s")
            orders.append(names(app)[0])
        assert orders == ["alpha", "beta", "beta", "alpha", "beta"]

    play(Daemon(), script)


def test_p_pins_the_chosen_unit_and_unpins_it() -> None:
    daemon = Daemon()

    async def script(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("down", "p")
        await pilot.pause(0.3)
        assert names(app)[1] == "* gamma [b]"
        await pilot.press("p")
        await pilot.pause(0.3)
        assert names(app)[1] == "gamma [b]"

    play(daemon, script)
    pins = [(name, request["path"]) for name, request in daemon.asked if "pin" in name]
    assert pins == [("pin", "gamma [b]"), ("unpin", "gamma [b]")]


def test_help_opens_and_any_key_closes_it() -> None:
    async def script(app: Top, pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        await pilot.press("x")
        assert not isinstance(app.screen, Help)

    play(Daemon(), script)


def test_the_end_of_the_mount_ends_it() -> None:
    daemon = Daemon()

    async def script(app: Top, pilot: Pilot[None]) -> None:
        daemon.is_mounted = False
        for _ in range(100):
            await pilot.pause(0.02)
            if app.farewell:
                return

    assert play(daemon, script).farewell == "/mnt/cache is no longer mounted"


def test_a_daemon_that_does_not_answer_is_told_and_asked_again() -> None:
    daemon = Daemon()

    async def script(app: Top, pilot: Pilot[None]) -> None:
        daemon.failure = "the daemon does not answer"
        await pilot.pause(0.4)
        assert "does not answer" in text(app, "#head")
        daemon.failure = ""
        await pilot.pause(0.4)
        assert "passthrough" in text(app, "#head")

    play(daemon, script)


@pytest.mark.parametrize(
    "key", ["up", "down", "end", "pageup", "left", "enter", "r", "s", "p", "z"]
)
def test_no_key_ends_it_while_nothing_is_there(key: str) -> None:
    daemon = Daemon()
    daemon.units = []
    app = Top(MOUNT, interval_s=0.05, ask=daemon.ask)

    async def run() -> None:
        async with app.run_test(size=(40, 12)) as pilot:
            await pilot.press(key)
            await pilot.pause(0.1)
            assert app.is_running

    asyncio.run(run())
