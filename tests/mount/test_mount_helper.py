"""mount(8) and fstab lines with type fuse.dedupfs; needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mount.mounted import (
    Mounted,
    command_environment,
    is_mounted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def helper(tmp_path: Path) -> Iterator[Path]:
    """Install the helper where mount(8) looks for it, as the manual says, and take it away."""
    if os.geteuid() != 0:
        pytest.skip("mount(8) needs root")
    link = Path("/sbin/mount.fuse.dedupfs")
    if link.exists() or link.is_symlink():
        pytest.skip(f"{link} is installed already")
    for name, module in (("mount.dedupfs", "mount_helper"), ("dedupfs", "main")):
        script = tmp_path / name
        script.write_text(
            f"#!/bin/sh\nPYTHONPATH={command_environment()['PYTHONPATH']} exec {sys.executable} -P "
            f"-c 'from dedupfs.cli.{module} import main; main()' \"$@\"\n"
        )
        script.chmod(0o755)
    link.symlink_to(tmp_path / "mount.dedupfs")
    try:
        yield tmp_path / "mount.dedupfs"
    finally:
        link.unlink(missing_ok=True)


def end(one: Mounted) -> None:
    one.pid = one.status_number("pid")
    one.stop()


def test_mount_with_type_fuse_dedupfs(helper: Path, tmp_path: Path) -> None:
    assert helper.exists()
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    one.path.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "fuse.dedupfs", str(one.store), str(one.path), "-o", "io=passthrough"],
            check=True,
        )
        assert one.status()["io_mode"] == "passthrough"
        end(one)
    finally:
        one.clear()


def test_an_fstab_line(helper: Path, tmp_path: Path) -> None:
    assert helper.exists()
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    one.path.mkdir()
    fstab = tmp_path / "fstab"
    fstab.write_text(
        f"{one.store} {one.path} fuse.dedupfs "
        "defaults,allow_other,io=writeback,nofail,_netdev,x-systemd.requires=/,noexec 0 0\n"
    )
    try:
        subprocess.run(["mount", "-T", str(fstab), str(one.path)], check=True)
        assert is_mounted(one.path)
        (one.path / "f").write_text("x")
        end(one)
        subprocess.run(["mount", "-T", str(fstab), "-a"], check=True)
        assert (one.path / "f").read_text() == "x"
        end(one)
    finally:
        one.clear()


def test_mount_tells_why_it_failed(helper: Path, tmp_path: Path) -> None:
    assert helper.exists()
    done = subprocess.run(
        ["mount", "-t", "fuse.dedupfs", str(tmp_path / "s"), str(tmp_path), "-o", "rw"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 32
    assert "is not empty" in done.stderr


def test_mount_finds_the_command_without_the_helper(helper: Path, tmp_path: Path) -> None:
    # mount(8) sets PATH itself; /usr/local/bin is in it, a virtual environment is not.
    Path("/sbin/mount.fuse.dedupfs").unlink()
    link = Path("/usr/local/bin/dedupfs")
    if link.exists() or shutil.which("mount.fuse3") is None:
        pytest.skip(f"{link} is there, or mount.fuse3 is not")
    link.symlink_to(helper.with_name("dedupfs"))
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    one.path.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "fuse.dedupfs", str(one.store), str(one.path), "-o", "nofail"],
            check=True,
        )
        end(one)
    finally:
        link.unlink()
        one.clear()
