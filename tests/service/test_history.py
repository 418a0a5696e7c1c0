"""Space over time: bounded however long a store lives, and there again after a remount."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from dedupfs.service.history import COLUMNS, SAMPLES_MAX, History, Row, Series

if TYPE_CHECKING:
    from pathlib import Path


def row(time_s: int) -> Row:
    return (time_s, *range(len(COLUMNS) - 1))


def test_a_long_life_is_kept_in_few_samples() -> None:
    series, time_s = Series(), 0.0
    while time_s < 40 * 86400:
        series.add(row(int(time_s)))
        time_s += series.interval_s
    assert len(series.rows) < SAMPLES_MAX
    assert series.rows[0] == row(0)
    times = [one[0] for one in series.rows]
    assert times == sorted(times)
    assert times[-1] > 39 * 86400
    assert max(later - one for one, later in itertools.pairwise(times)) < 2 * 86400


def test_it_survives_as_text() -> None:
    series = Series()
    series.add(row(7))
    assert Series.from_json(series.to_json()) == series


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"columns": [], "rows": [], "interval_s": 5.0}',
        Series([row(1)]).to_json().replace("[[1,", "[["),
        Series([row(1)]).to_json().replace("[[1,", '[["x",'),
        Series([row(1)], -1.0).to_json(),
    ],
)  # fmt: skip
def test_what_is_no_series_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.json").write_text(text)
    assert len(History(tmp_path, lambda: row(5)).document()["rows"]) == 1  # type: ignore[arg-type]


async def test_samples_are_saved_at_the_end_and_found_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    clock = iter(range(1000))
    past = History(tmp_path, lambda: row(next(clock)))
    with trio.move_on_after(22):
        await past.serve()
    assert os.listdir(tmp_path) == ["history.json"]
    rows = History(tmp_path, lambda: row(99)).document()["rows"]
    assert rows == [row(0), row(1), row(2), row(3), row(4), row(5), row(99)]
    del autojump_clock


def test_a_full_disk_is_no_trouble(tmp_path: Path) -> None:
    past = History(tmp_path / "nowhere", lambda: row(1))
    past._save()
