"""What people see of a real mount: status, du and stat agree with what was written."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from textual.widgets import DataTable

from dedupfs.cli.top_screen import Top
from dedupfs.service import survey
from mount.mounted import command_environment, dedupfs, is_mounted, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mount.mounted import Mounted

SHARED = random.Random(5).randbytes(2 << 20)


def wait_until(holds: Callable[[], bool], timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


@pytest.fixture(scope="module")
def ranks(mount: Mounted) -> Mounted:
    """Four ranks with the same 2 MiB behind a head of their own, and a log of their own."""
    for rank in range(4):
        folder = mount.path / f"rank{rank}"
        folder.mkdir()
        (folder / "data").write_bytes(b"rank %011d" % rank + SHARED)
        (folder / "log").write_bytes(os.urandom(100_000 * (rank + 1)))
    return mount


def test_status_shows_the_biggest_units(ranks: Mounted) -> None:
    text = dedupfs("status", ranks.path, "--units", "2").stdout
    assert "4 units, as of" in text
    assert "and 2 more: --units all" in text
    assert "rank3" in text
    assert "\x1b" not in text, "no colours in a pipe"
    assert "rank0" in dedupfs("status", ranks.path, "--units", "all").stdout
    assert "units" not in dedupfs("status", ranks.path, "--units", "0").stdout


def test_status_as_json_has_units_when_asked_for(ranks: Mounted) -> None:
    assert "units" not in ranks.status()
    done = dedupfs("status", ranks.path, "--json", "--units", "all")
    document = json.loads(done.stdout)
    units = {unit["path"]: unit for unit in document["units"]}
    assert sorted(units) == ["rank0", "rank1", "rank2", "rank3"]
    for rank, unit in ((int(path[-1]), unit) for path, unit in units.items()):
        assert unit["logical_bytes"] == 16 + len(SHARED) + 100_000 * (rank + 1)
        assert unit["files"] == 2
        assert 0 <= unit["exclusive_bytes"] - 100_000 * (rank + 1) < 70_000
        assert unit["exclusive_bytes"] + unit["shared_bytes"] <= unit["logical_bytes"]
        others = {other["path"]: other["bytes"] for other in unit["shared_with"]}
        assert sorted({*others, f"rank{rank}"}) == sorted(units)
        assert all(size >= len(SHARED) - 70_000 for size in others.values())
    assert document["units_as_of_s"] < 10


def test_du_says_what_a_removal_frees_and_it_does(ranks: Mounted) -> None:
    (ranks.path / "gone").mkdir()
    (ranks.path / "gone" / "own").write_bytes(os.urandom(300_000))
    (ranks.path / "gone" / "shared").write_bytes(SHARED)
    done = dedupfs("du", ranks.path / "gone", "--depth", "1", "--json")
    document = json.loads(done.stdout)
    top, *below = document["entries"]
    assert top["path"] == str(ranks.path / "gone")
    assert [os.path.basename(one["path"]) for one in below] == ["own", "shared"]
    assert top["logical_bytes"] == 300_000 + len(SHARED)
    assert top["freed_bytes"] == below[0]["freed_bytes"] + below[1]["freed_bytes"]
    before = ranks.status_number("live_bytes")
    (ranks.path / "gone" / "own").unlink()
    (ranks.path / "gone" / "shared").unlink()
    (ranks.path / "gone").rmdir()
    assert before - ranks.status_number("live_bytes") == top["exclusive_bytes"]


def test_du_of_several_says_what_they_free_together(ranks: Mounted) -> None:
    for name in ("pair0", "pair1"):
        (ranks.path / name).write_bytes(random.Random(6).randbytes(500_000))
    done = dedupfs("du", ranks.path / "pair0", ranks.path / "pair1")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["content", "own", "shared", "frees"]
    assert [line.split()[-2:] for line in lines[1:3]] == [
        ["B", str(ranks.path / name)] for name in ("pair0", "pair1")
    ]
    assert "488.3 KiB" in lines[3]
    assert "together" in lines[3]
    for name in ("pair0", "pair1"):
        (ranks.path / name).unlink()


def test_du_outside_of_a_mount_and_of_nothing(ranks: Mounted, tmp_path: Path) -> None:
    done = dedupfs("du", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not inside a dedupfs mount" in one_line(done.stderr)
    done = dedupfs("du", ranks.path / "nothing")
    assert done.returncode == 1
    assert "nothing: no such file" in one_line(done.stderr)
    assert "several mounts" not in done.stderr


def test_stat_tells_what_a_file_takes_and_who_shares_it(ranks: Mounted) -> None:
    path = ranks.path / "rank1" / "data"
    document = json.loads(dedupfs("stat", path, "--json", "--sharers", "2").stdout)
    assert document["size_bytes"] == document["logical_bytes"] == 16 + len(SHARED)
    assert document["inode"] == path.stat().st_ino
    for key in ("exclusive", "physical_share", "extents"):
        suffix = "" if key == "extents" else "_bytes"
        assert document[key + suffix] == int(os.getxattr(path, f"user.dedupfs.{key}"))
    assert document["sharing_files"] == 3
    assert len(document["shared_with"]) == 2
    text = dedupfs("stat", path, "--sharers", "2").stdout
    assert "and 1 more files" in text
    assert "by the daemon: this mount has no passthrough" in text


def test_stat_says_whether_a_file_is_read_past_the_daemon(mount_passthrough: Mounted) -> None:
    (mount_passthrough.path / "f").write_bytes(SHARED)
    (mount_passthrough.path / "empty").touch()
    reason = str(mount_passthrough.status()["io_reason"])
    text = dedupfs("stat", mount_passthrough.path / "f").stdout
    assert ("no passthrough" in reason) == ("read     by the daemon" in text)
    assert ("no passthrough" in reason) or "past the daemon" in text
    empty = dedupfs("stat", mount_passthrough.path / "empty").stdout
    assert "it is empty" in empty or "no passthrough" in empty


def test_stat_of_what_is_no_file(ranks: Mounted) -> None:
    done = dedupfs("stat", ranks.path / "rank0")
    assert done.returncode == 1
    assert "rank0: a folder: dedupfs du" in one_line(done.stderr)


def test_metrics_of_a_real_mount(new_mount: Callable[..., Mounted]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = new_mount("--metrics", str(port))
    (one.path / "unit").mkdir()
    (one.path / "unit" / "f").write_bytes(SHARED)
    url = f"http://127.0.0.1:{port}/metrics"

    def scrape() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    text = scrape()
    assert float(text.split("\ndedupfs_content_bytes ")[1].split()[0]) == len(SHARED)
    assert 'dedupfs_requests_total{operation="write"}' in text
    assert f'mountpoint="{one.path}"' in text
    assert wait_until(lambda: 'dedupfs_unit_content_bytes{unit="unit"}' in scrape())


def test_a_taken_metrics_port_refuses_the_mount(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "mnt").mkdir()
        done = dedupfs("mount", tmp_path / "mnt", "--metrics", str(port))
    assert done.returncode == 1
    assert f"--metrics 127.0.0.1:{port}: Address already in use" in one_line(done.stderr)
    assert not is_mounted(tmp_path / "mnt")


def test_the_history_goes_on_after_a_remount(new_mount: Callable[..., Mounted]) -> None:
    one = new_mount()
    (one.path / "f").write_bytes(SHARED)
    one.remount()
    rows = json.loads((one.store / "history.json").read_text())["rows"]
    assert rows[-1][1] == len(SHARED)
    assert len(rows) >= 2


def test_top_shows_a_real_mount_and_ends_with_it(new_mount: Callable[..., Mounted]) -> None:
    one = new_mount()
    (one.path / "unit").mkdir()
    (one.path / "unit" / "f").write_bytes(SHARED)
    app = Top(survey.only_mount(one.path), interval_s=0.1)

    async def watch() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            table = app.query_one(DataTable)
            for _ in range(200):
                await pilot.pause(0.05)
                if table.row_count:
                    break
            assert [str(cell) for cell in table.get_row_at(0)[:2]] == ["unit", "2.0 MiB"]
            await pilot.press("p")
            for _ in range(100):
                await pilot.pause(0.05)
                if str(table.get_row_at(0)[0]) == "* unit":
                    break
            assert "unit (pinned)" in dedupfs("status", one.path).stdout
            one.remount()  # another daemon: no wild rates, no end
            await pilot.pause(0.5)

    asyncio.run(watch())
    assert app.farewell in {"", f"{one.path} is no longer mounted"}


def test_top_in_a_pipe_is_refused(ranks: Mounted) -> None:
    done = dedupfs("top", ranks.path)
    assert done.returncode == 2
    assert "top needs a terminal" in one_line(done.stderr)


def test_report_of_a_real_mount(ranks: Mounted, tmp_path: Path) -> None:
    done = dedupfs("report", tmp_path / "page.html", ranks.path)
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "page.html").read_text()
    for word in (str(ranks.path), "rank0", "rank3", "in common", "<svg"):
        assert word in page
    done = dedupfs("report", tmp_path / "no" / "page.html", ranks.path)
    assert done.returncode == 1
    assert "there is no folder" in one_line(done.stderr)


def test_a_report_without_its_libraries_says_what_to_install(
    ranks: Mounted, tmp_path: Path
) -> None:
    (tmp_path / "jinja2.py").write_text("raise ImportError('none here', name='jinja2')\n")
    environment = command_environment()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "dedupfs.cli", "report", str(tmp_path / "p.html"), str(ranks.path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "report needs jinja2: install it with pip install 'dedupfs[report]'" in one_line(
        done.stderr
    )
