"""Space over time: a bounded series of samples, kept in the store over mounts.

When the series is full, every other sample goes and the time between two doubles: the whole life of
a store fits, older times as fine as newer ones.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from dedupfs.core.format import STORE_FILES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Document = dict[str, object]

log = logging.getLogger(__name__)

HISTORY: Final = "history"
COLUMNS: Final = (
    "time_s", "logical_bytes", "allocated_bytes", "index_bytes", "files", "written_bytes",
    "evicted_bytes", "free_bytes",
)  # fmt: skip
SAMPLES_MAX: Final = 1000
_FIRST_INTERVAL_S: Final = 5.0
_SAVE_INTERVAL_S: Final = 300.0

Row = tuple[int, ...]


@dataclass(slots=True)
class Series:
    """Samples, by time; `interval_s` is how long after the last the next is due."""

    rows: list[Row] = field(default_factory=list)
    interval_s: float = _FIRST_INTERVAL_S

    def add(self, row: Row) -> None:
        """Add a sample, and make room when that was the last there was."""
        self.rows.append(row)
        if len(self.rows) >= SAMPLES_MAX:
            del self.rows[1::2]
            self.interval_s *= 2

    def to_json(self) -> str:
        """Return text for `from_json`."""
        return json.dumps(
            {"columns": COLUMNS, "interval_s": self.interval_s, "rows": self.rows},
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Series:
        """Return what `to_json` wrote; raises ValueError or TypeError for anything else."""
        raw = json.loads(text)
        if not isinstance(raw, dict) or raw.get("columns") != list(COLUMNS):
            raise ValueError("other columns")
        rows, interval_s = raw.get("rows"), raw.get("interval_s")
        if not isinstance(rows, list) or not isinstance(interval_s, float):
            raise TypeError("no rows")
        series = cls([tuple(int(value) for value in row) for row in rows], interval_s)
        if interval_s <= 0 or any(len(row) != len(COLUMNS) for row in series.rows):
            raise ValueError("rows of another length")
        return series


class History:
    """The daemon's series."""

    def __init__(self, store: Path, sample: Callable[[], Row]) -> None:
        """`sample` gives a row by COLUMNS."""
        self._path = store / STORE_FILES["history"]
        self._sample = sample
        self._series = self._load()
        self.commands: Mapping[str, Callable[[Mapping[str, object]], Document]] = {
            HISTORY: lambda _request: self.document()
        }

    def document(self) -> Document:
        """Return all samples, and one of now."""
        return {"columns": list(COLUMNS), "rows": [*self._series.rows, self._sample()]}

    async def serve(self) -> None:
        """Take samples until cancelled; then save them."""
        due = trio.current_time() + _SAVE_INTERVAL_S
        try:
            while True:
                self._series.add(self._sample())
                if trio.current_time() >= due:
                    due = trio.current_time() + _SAVE_INTERVAL_S
                    await trio.to_thread.run_sync(self._save)
                await trio.sleep(self._series.interval_s)
        finally:
            self._series.add(self._sample())
            self._save()

    def _load(self) -> Series:
        try:
            return Series.from_json(self._path.read_text())
        except FileNotFoundError:
            return Series()
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s: %s: space over time begins anew", self._path, error)
            return Series()

    def _save(self) -> None:
        """Replace the file; what a full disk or a power cut takes of it is no loss."""
        new = self._path.with_suffix(".new")
        try:
            new.write_text(self._series.to_json())
            new.replace(self._path)
        except OSError as error:
            log.info("%s: %s", self._path, error.strerror)
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
