"""Signs to systemd: without them it would kill a mount that is well, or think one ready that is not."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from dedupfs.service import notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["file", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify")
    address, shown = (name, name) if request.param == "file" else (f"\0{name}", f"@{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", shown)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(address)
        link.settimeout(5)
        yield link


def test_lines_arrive_in_one_datagram(manager: socket.socket) -> None:
    notify.notify(notify.READY, notify.status("two\nlines"))
    assert manager.recv(4096) == b"READY=1\nSTATUS=two lines"


def test_nobody_listening_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.notify(notify.READY)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify.notify(notify.READY)


@pytest.mark.parametrize(
    ("usec", "pid", "interval_s"),
    [
        ("3000000", "", 1.5),
        ("3000000", "own", 1.5),
        ("3000000", "1", None),
        ("0", "", None),
        ("", "", None),
        ("x", "", None),
    ],
)
def test_the_watchdog_wants_a_sign_in_half_its_time(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, interval_s: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert notify.watchdog_interval_s() == interval_s
