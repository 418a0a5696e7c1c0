"""The screen of `dedupfs top`: asks the daemon now and then in a thread, shows what has changed."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import Horizontal
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Sparkline, Static

from dedupfs.cli import render
from dedupfs.cli.rates import Rates
from dedupfs.core.errors import DedupfsError
from dedupfs.core.quantities import duration, size
from dedupfs.service import client

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from dedupfs.service.mounts import Mount

    Document = dict[str, object]
    Ask = Callable[[str, Document], Document | None]

_UNITS_SHOWN: Final = 200
_UNITS_MAX_AGE_S: Final = 5.0
_UNITS_SHARE: Final = 20  # the daemon measures in this part of the time at most
_UNITS_EVERY: Final = 5  # looks
_TIMEOUT_S: Final = 5.0
_SAMPLES: Final = 60
_BAR: Final = 20

_COLUMNS: Final = (("unit", 22), ("written", 10), ("its own", 10), ("files", 6))
# What units are sorted by: the column's name and its key, the largest first.
_ORDERS: Final = (
    ("written", "logical_bytes"),
    ("its own", "exclusive_bytes"),
    ("shared", "shared_bytes"),
    ("files", "files"),
    ("name", "path"),
)

_HELP: Final = """\
[b]dedupfs top[/b]

[b]s[/b]  sort units by the next column
[b]p[/b]  pin the chosen unit, or unpin it:
   a pinned unit is never evicted
[b]r[/b]  measure the units anew
[b]q[/b]  quit

written    bytes of the unit's files
its own    what its removal would free
shared     bytes that others use, too

Reads count when they reach the daemon:
those past it (passthrough), and those that
the kernel has cached, are not seen here.

any key closes this
"""


class Help(ModalScreen[None]):
    """What the keys do."""

    CSS = """
    Help { align: center middle; }
    Help Static { width: 50; height: auto; border: round $accent; padding: 0 2; background: $panel; }
    """

    def compose(self) -> ComposeResult:  # type: ignore[explicit-override]
        """Show the text."""
        yield Static(_HELP)

    def on_key(self) -> None:
        """Close with any key."""
        self.dismiss()


class Top(App[None]):
    """One mount, live. `farewell` is what to say at the end."""

    CSS = """
    #head, #space, #rates, #requests, #evictions, #units-title { height: 1; padding: 0 1; }
    #head { background: $panel; text-style: bold; }
    #space { height: 2; }
    #lines { height: 2; padding: 0 1; }
    #lines Sparkline { width: 1fr; height: 2; margin: 0 1 0 0; }
    #units-title { text-style: bold; margin-top: 1; }
    DataTable { height: 1fr; overflow-x: hidden; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "Sort"),
        Binding("p", "pin", "Pin"),
        Binding("r", "measure", "Measure"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", show=False),
    ]

    def __init__(
        self,
        mount: Mount,
        *,
        interval_s: float = 1.0,
        ask: Ask | None = None,
        name: str | None = None,
    ) -> None:
        """`ask` stands in for the control socket in tests, `name` for the mount point in pictures."""
        super().__init__()
        self.farewell = ""
        self._mount_point = name or render.path_text(mount.path)
        self._store = mount.store
        self._interval_s = interval_s
        self._ask = ask or self._ask_daemon
        self._order = 0
        self._looks = 0
        self._is_asking = False
        self._before: tuple[float, Document] | None = None
        self._units: list[Document] = []
        self._count = 0
        self._age = "being measured"
        self._max_age_s = _UNITS_MAX_AGE_S
        self._written: deque[float] = deque([0.0] * _SAMPLES, _SAMPLES)
        self._read: deque[float] = deque([0.0] * _SAMPLES, _SAMPLES)

    def compose(self) -> ComposeResult:  # type: ignore[explicit-override]
        """Build the parts."""
        yield Static(Text(f"{self._mount_point}"), id="head")
        yield Static(id="space")
        yield Static(id="rates")
        with Horizontal(id="lines"):
            yield Sparkline(id="written")
            yield Sparkline(id="read")
        yield Static(id="requests")
        yield Static(id="evictions")
        yield Static(id="units-title")
        yield DataTable[Text](cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        table = self._table()
        left = self.size.width - sum(width + 2 for _, width in _COLUMNS)
        for name, width in _COLUMNS:
            table.add_column(Text(name, justify="left" if name == "unit" else "right"), width=width)
        table.add_column("shared with", width=max(12, left - 4))
        table.focus()
        self._look()
        self.set_interval(self._interval_s, self._look)

    # --- asking, in a thread ---

    def _look(self, *, is_urgent: bool = False) -> None:
        if self._is_asking:
            return  # the daemon is slow: no second question behind the first
        self._is_asking = True
        max_age_s = 0.5 if is_urgent else self._max_age_s
        # Until there are any, every time.
        wants_units = is_urgent or not self._units or self._looks % _UNITS_EVERY == 0
        self._looks += 1

        def work() -> None:
            found: Document | None = None
            units: Document | None = None
            problem = ""
            try:
                found = self._ask("status", {})
                if found is not None and wants_units:
                    units = self._ask("units", {"max_age_s": max_age_s, "limit": _UNITS_SHOWN})
            except DedupfsError as error:
                problem = str(error)
            if self.is_running:
                self.call_from_thread(self._answered, found, units, problem)

        self.run_worker(work, thread=True, exit_on_error=False)

    def _ask_daemon(self, operation: str, request: Document) -> Document | None:
        return client.ask(self._store, operation, request, timeout_s=_TIMEOUT_S)

    def _answered(self, found: Document | None, units: Document | None, problem: str) -> None:
        self._is_asking = False
        if problem:
            self.query_one("#head", Static).update(Text(problem, style="bold red"))
            return
        if found is None:
            self.farewell = f"{self._mount_point} is no longer mounted"
            self.exit()
            return
        now = time.monotonic()
        if self._before is not None:
            self._show_rates(Rates.between(self._before[1], found, now - self._before[0]))
        self._before = (now, found)
        self._show_space(found)
        if units is not None:
            self._show_units(units)

    # --- showing ---

    def _show_space(self, found: Document) -> None:
        logical, allocated = (int(str(found[key])) for key in ("logical_bytes", "allocated_bytes"))
        most = max(logical, allocated, 1)
        up = duration(int(str(found["uptime_s"])))
        self.query_one("#head", Static).update(
            Text(f"{self._mount_point}  {found['io_mode']}  up {up}", no_wrap=True)
        )
        lines = [
            f"{name:8} {render.bar(count / most, _BAR, is_plain=False)} {size(count):>10}"
            for name, count in (("content", logical), ("on disk", allocated))
        ]
        lines[0] += f"   {found['files']:,} files"
        lines[1] += f"   saved {render.saving(logical, allocated)}"
        self.query_one("#space", Static).update(Text("\n".join(lines), no_wrap=True))
        evictions = "; ".join(f"{name} {value}" for name, value in render.eviction_rows(found))
        self.query_one("#evictions", Static).update(
            Text(evictions or "no limit is set, nothing was evicted", no_wrap=True)
        )

    def _show_rates(self, rates: Rates) -> None:
        self._written.append(rates.written_bytes)
        self._read.append(rates.read_bytes)
        half = f"written {size(int(rates.written_bytes))}/s"
        self.query_one("#rates", Static).update(
            Text(f"{half:38} read {size(int(rates.read_bytes))}/s through the daemon", no_wrap=True)
        )
        self.query_one("#written", Sparkline).data = list(self._written)
        self.query_one("#read", Sparkline).data = list(self._read)
        kinds = "  ".join(f"{name} {count:,.0f}" for name, count in rates.operations[:6])
        self.query_one("#requests", Static).update(
            Text(f"requests {rates.requests:,.0f}/s  {kinds}", no_wrap=True)
        )

    def _show_units(self, document: Document) -> None:
        listed, as_of = document["units"], document["as_of_s"]
        self._units = list(listed) if isinstance(listed, list) else []
        self._age = render.ago(as_of) if isinstance(as_of, int | float) else "being measured"
        took = document.get("took_s")
        if isinstance(took, float):
            self._max_age_s = max(_UNITS_MAX_AGE_S, took * _UNITS_SHARE)
        self._count = int(str(document["count"]))
        self._fill()

    def _fill(self) -> None:
        """Show the units in the chosen order; the cursor stays on its unit."""
        name, key = _ORDERS[self._order]
        more = f", the {len(self._units):,} largest" if len(self._units) < self._count else ""
        self.query_one("#units-title", Static).update(
            Text(f"{self._count:,} units{more}, by {name}, {self._age}", no_wrap=True)
        )

        def rank(unit: Document) -> tuple[int, str]:
            value = unit[key]
            return (-value if isinstance(value, int) else 0), str(unit["path"])

        table, chosen = self._table(), self._chosen()
        table.clear()
        for unit in sorted(self._units, key=rank):
            path = unit["path"]
            if path is None:
                continue
            pinned = "* " if unit.get("pinned") else ""
            table.add_row(
                Text(pinned + render.path_text(path)),
                *(
                    Text(size(int(str(unit[one]))), justify="right")
                    for one in ("logical_bytes", "exclusive_bytes")
                ),
                Text(f"{unit['files']:,}", justify="right"),
                Text(_most_shared(unit), no_wrap=True, overflow="ellipsis"),
                key=str(path),
            )
        if chosen is not None and chosen in table.rows:
            table.move_cursor(row=table.get_row_index(chosen))

    def _table(self) -> DataTable[Text]:
        table: DataTable[Text] = self.query_one(DataTable)
        return table

    def _chosen(self) -> str | None:
        """Return the path of the unit under the cursor."""
        table = self._table()
        if not table.is_valid_row_index(table.cursor_row):
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    # --- keys ---

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._order = (self._order + 1) % len(_ORDERS)
        self._fill()

    def action_measure(self) -> None:
        """Measure the units anew."""
        self._look(is_urgent=True)

    def action_help(self) -> None:
        """Say what the keys do."""
        self.push_screen(Help())

    def action_pin(self) -> None:
        """Pin the chosen unit, or unpin it."""
        path = self._chosen()
        unit = next((one for one in self._units if one["path"] == path), None)
        if unit is None:
            return
        operation = "unpin" if unit.get("pinned") else "pin"

        def work() -> None:
            try:
                done = self._ask(operation, {"path": unit["path"]})
                problem = "" if done is not None else "the mount has ended"
            except DedupfsError as error:
                problem = str(error)
            self.call_from_thread(self._pinned, unit, operation, problem)

        self.run_worker(work, thread=True, exit_on_error=False)

    def _pinned(self, unit: Document, operation: str, problem: str) -> None:
        if problem:
            self.notify(problem, severity="error", markup=False)
            return
        unit["pinned"] = operation == "pin"
        self._fill()


def _most_shared(unit: Document) -> str:
    """Return e.g. `97.9 GiB +2 rank1`: how much it shares with whom most, and with how many others."""
    listed = unit["shared_with"]
    if not isinstance(listed, list) or not listed:
        return ""
    more = f" +{len(listed) - 1}" if len(listed) > 1 else ""
    return f"{size(int(listed[0]['bytes']))}{more} {render.path_text(listed[0]['path'])}"
