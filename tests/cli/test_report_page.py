"""The page of `dedupfs report`: whole in itself, and names in it stay names."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from dedupfs.cli import plots, report
from dedupfs.service.history import COLUMNS

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ODD = "<script>alert(1)</script> & \udcff"


def unit(path: str, own: int, *others: tuple[str, int]) -> dict[str, object]:
    return {
        "path": path, "logical_bytes": 5000, "exclusive_bytes": own, "shared_bytes": 4000,
        "files": 3, "shared_with": [{"path": name, "bytes": size} for name, size in others],
    }  # fmt: skip


def page() -> str:
    units = [unit("rank0", 1000, (ODD, 4000)), unit(ODD, 2, ("rank0", 4000), ("gone", 1))]
    rows = [[1_700_000_000 + 60 * at, 4000 * at, 1000 * at, 9, 3, 5000 * at, 0, 10**12]
            for at in range(50)]  # fmt: skip
    return plots.page(
        {
            "mountpoint": "/mnt/<b>",
            "made": "now",
            "facts": [("content", "1 GiB")],
            "units": [report._unit_row(one) for one in units],
            "units_more": 3,
            "cells": report._cells(units),
            "names": [report._name(one) for one in units],
        },
        COLUMNS,
        rows,
    )


def test_nothing_is_loaded_from_elsewhere() -> None:
    text = page()
    addresses = set(re.findall(r"""["'(](https?:[^"')]*)""", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(script|link|iframe|img)\b", text)
    assert "default-src 'none'" in text


def test_odd_names_are_text() -> None:
    text = page()
    assert "/mnt/&lt;b&gt;" in text
    assert "alert(1)" in text
    text.encode("utf-8")


def test_colours_are_the_pages_own() -> None:
    text = page()
    assert "#01020" not in text
    assert "var(--a)" in text
    assert "prefers-color-scheme: dark" in text


def test_the_map_has_a_cell_for_each_pair_and_each_unit_alone() -> None:
    units = [unit("a", 1000, ("b", 4000)), unit("b", 0, ("a", 4000), ("gone", 1))]
    cells = {(cell.row, cell.column): cell for cell in report._cells(units)}
    assert sorted(cells) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert cells[0, 0].part == 0.2
    assert cells[1, 0].part == 1.0
    assert cells[0, 1].text == "a and b: 3.9 KiB in common"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: scripts/system-packages browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_complaint(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "page.html").write_text(page())
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            "--window-size=900,1400", f"--screenshot={tmp_path / 'page.png'}",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    assert (tmp_path / "page.png").stat().st_size > 20_000
