"""Logs: what a person reads, what a collector parses, and a place that cannot be written."""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import MountError
from dedupfs.service import journal, preflight
from dedupfs.service.logs import DaemonLog
from dedupfs.service.options import OPTIONS, MountOptions
from mount.mounted import dedupfs, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("dedupfs.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:], root.level = before, level


def options(tmp_path: Path, **texts: str) -> MountOptions:
    named = {name.replace("_", "-"): text for name, text in texts.items()}
    values = {name: OPTIONS[name].parse(text, name) for name, text in named.items()}
    return MountOptions(tmp_path / "mnt", tmp_path).changed(values, {})


def received(link: socket.socket) -> dict[str, str]:
    raw, fields = link.recv(1 << 20), {}
    while raw:
        name, _, rest = raw.partition(b"\n")
        (length,) = struct.unpack("<Q", rest[:8])
        fields[name.decode()] = rest[8 : 8 + length].decode()
        raw = rest[8 + length + 1 :]
    return fields


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "journal")
    monkeypatch.setattr(journal, "SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(path)
        link.settimeout(5)
        yield link


def test_a_file_of_lines_for_people_with_what_was_logged_before_it_was_open(tmp_path: Path) -> None:
    daemon_log = DaemonLog(options(tmp_path))
    log.info("early")
    daemon_log.open()
    log.info("late")
    log.debug("not worth a line")
    lines = (tmp_path / "dedupfs.log").read_text().splitlines()
    assert [line.partition(" INFO dedupfs.test: ")[2] for line in lines] == ["early", "late"]


def test_json_lines_have_time_level_logger_message_and_fields(tmp_path: Path) -> None:
    DaemonLog(options(tmp_path, log_format="json", log_level="debug")).open()
    log.debug("%s\nb", "a", extra={"unit": "rank0", "path": Path("/x")})
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        log.exception("bug")
    first, second = map(json.loads, (tmp_path / "dedupfs.log").read_text().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "debug", "logger": "dedupfs.test", "message": "a\nb", "unit": "rank0", "path": "/x",
    }  # fmt: skip
    assert "ZeroDivisionError: " in second["exception"]


def test_a_long_log_is_turned_over_once(tmp_path: Path) -> None:
    DaemonLog(options(tmp_path)).open()
    for _ in range(30):
        log.info("%s", "x" * 100_000)
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("dedupfs.log*"))
    assert len(sizes) == 2
    assert sizes[-1] <= 1 << 20


def test_the_journal_gets_level_logger_and_whole_messages(
    tmp_path: Path, journald: socket.socket
) -> None:
    DaemonLog(options(tmp_path, log_to="journald")).open()
    log.warning("one\ntwo")
    fields = received(journald)
    assert (fields["MESSAGE"], fields["PRIORITY"]) == ("one\ntwo", "4")
    assert (fields["LOGGER"], fields["SYSLOG_IDENTIFIER"]) == ("dedupfs.test", "dedupfs")
    log.error("x" * 1_000_000)
    assert len(received(journald)["MESSAGE"]) == 48 << 10
    assert not (tmp_path / "dedupfs.log").exists()


def test_stderr_that_is_the_journal_is_spoken_to_as_the_journal(
    tmp_path: Path, journald: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "stderr", "w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        DaemonLog(options(tmp_path, foreground="true")).open()
        log.error("seen")
        assert received(journald)["PRIORITY"] == "3"
        assert (tmp_path / "stderr").read_text() == ""


def test_stderr_and_a_file_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DaemonLog(options(tmp_path, foreground="true", log_file=str(tmp_path / "l"))).open()
    log.info("both")
    assert capsys.readouterr().err == (tmp_path / "l").read_text() != ""


def test_without_a_journal_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "no"))
    with pytest.raises(MountError, match=r"no journal at .*/no"):
        DaemonLog(options(tmp_path, log_to="journald")).open()


def test_stderr_in_the_background_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="log-to stderr needs --foreground"):
        preflight.prepare(options(tmp_path, log_to="stderr"))


@pytest.mark.parametrize("mode", [[], ["--foreground"]])
def test_a_log_that_cannot_be_written_is_one_line_and_no_mount(
    tmp_path: Path, mode: list[str]
) -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse")
    (tmp_path / "mnt").mkdir()
    place = tmp_path / "no" / "log"
    done = dedupfs("mount", tmp_path / "mnt", *mode, "--log-file", place)
    assert done.returncode == 1
    assert one_line(done.stderr) == f"dedupfs: {place}: No such file or directory"
    assert not os.path.ismount(tmp_path / "mnt")
