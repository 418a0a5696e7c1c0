"""`dedupfs systemd`: what is typed is in the unit, and only there where it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dedupfs.service import systemd
from mount.mounted import dedupfs, one_line

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg/systemd/user"


def start_line(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("ExecStart="))


def test_print_shows_the_flags_as_typed_and_writes_nothing(tmp_path: Path, units: Path) -> None:
    done = dedupfs(
        "systemd", "install", "--print", tmp_path / "mnt", "--capacity", "204800M", "--no-verify-reads",
        "-o", "ro,allow_other,store=/data/s", "--auto-gc",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = start_line(done.stdout)
    assert f" mount {tmp_path}/mnt --foreground " in line
    for words in (
        "--capacity 200G", "--no-verify-reads", "--allow-other", "-o ro", "--store /data/s", "--auto-gc 10m",
    ):  # fmt: skip
        assert words in line
    assert "--low-mark" not in line
    assert not units.exists()


def test_install_and_uninstall_for_a_user(tmp_path: Path, units: Path) -> None:
    mountpoint = tmp_path / "mnt"
    path = units / systemd.unit_name(mountpoint)
    done = dedupfs("systemd", "install", "--user", "--dry-run", "--now", mountpoint)
    assert f"would write {path}" in done.stdout
    assert "would run systemctl --user enable --now" in done.stdout
    assert not path.exists()
    done = dedupfs("systemd", "install", "--user", mountpoint)
    assert done.returncode == 0, done.stderr
    assert f"wrote {path}" in done.stdout
    assert "systemctl --user enable --now" in done.stdout
    assert "WantedBy=default.target" in path.read_text()
    assert dedupfs("systemd", "uninstall", "--user", "--dry-run", mountpoint).returncode == 0
    assert path.exists()
    assert dedupfs("systemd", "uninstall", "--user", mountpoint).returncode == 0
    assert not path.exists()
    done = dedupfs("systemd", "uninstall", "--user", mountpoint)
    assert done.returncode == 1
    assert "nothing to uninstall" in one_line(done.stderr)


def test_a_wrong_option_makes_no_unit(tmp_path: Path, units: Path) -> None:
    done = dedupfs("systemd", "install", "--user", tmp_path / "mnt", "--low-mark", "99%")
    assert done.returncode == 1
    assert "must be below high-mark" in one_line(done.stderr)
    assert not units.exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, units: Path) -> None:
    units.parent.parent.mkdir()
    units.parent.write_text("a file in the way")
    done = dedupfs("systemd", "install", "--user", tmp_path / "mnt")
    assert done.returncode == 1
    assert str(units) in one_line(done.stderr)
