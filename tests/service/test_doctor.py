"""A finding that is missing leaves somebody searching; one too many makes the others unread."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dedupfs.fuse import passthrough
from dedupfs.service import mounts
from dedupfs.service.doctor import places, system
from dedupfs.service.doctor.findings import Finding, Level
from dedupfs.service.mounts import Mount
from mount.mounted import command_environment, dedupfs

if TYPE_CHECKING:
    from pathlib import Path


def found(what: str) -> Finding:
    listed = [one for one in system.findings() if one.what == what]
    assert len(listed) == 1, listed
    return listed[0]


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path) -> None:
    for one in [*system.findings(), *places.store_findings(tmp_path / "no" / "store")]:
        assert one.text
        assert (one.advice == "") == (one.level is Level.OK)
        assert "\n" not in one.text + one.advice


def test_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system, "FUSE_DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(system, "_CONTAINER_MARKS", ())
    assert found("/dev/fuse").level is Level.PROBLEM
    monkeypatch.setattr(system, "_CONTAINER_MARKS", (tmp_path,))
    assert "--device /dev/fuse" in found("/dev/fuse").advice
    (tmp_path / "fuse").mkdir()
    assert "cannot be opened" in found("/dev/fuse").text


def test_a_container_without_the_capability(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(system, "FUSE_DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(system, "_CONTAINER_MARKS", (tmp_path,))
    monkeypatch.setattr(system, "_may_get_sys_admin", lambda: False)
    assert found("container").level is Level.PROBLEM
    assert "--cap-add SYS_ADMIN" in found("container").advice


def test_a_user_without_fusermount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert found("fusermount3").level is Level.PROBLEM
    (tmp_path / "fusermount3").touch(mode=0o755)
    assert "not setuid" in found("fusermount3").text
    monkeypatch.setattr(system, "FUSE_CONF", tmp_path / "fuse.conf")
    assert found("--allow-other").level is Level.WARNING
    (tmp_path / "fuse.conf").write_text("# user_allow_other\n")
    assert found("--allow-other").level is Level.WARNING
    (tmp_path / "fuse.conf").write_text("mount_max = 3\nuser_allow_other\n")
    assert found("--allow-other").level is Level.OK


@pytest.mark.parametrize(
    ("release", "level"),
    [("4.19.0", Level.PROBLEM), ("5.15.0-91-generic", Level.WARNING), ("6.18.1", Level.OK)],
)
def test_kernels(monkeypatch: pytest.MonkeyPatch, release: str, level: Level) -> None:
    real = os.uname()
    named = os.uname_result((real.sysname, real.nodename, release, real.version, real.machine))
    monkeypatch.setattr(os, "uname", lambda: named)
    assert found("kernel").level is level


def test_why_there_is_no_passthrough_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "why_not", lambda: "the moon is full")
    assert found("passthrough").level is Level.WARNING
    assert "the moon is full" in found("passthrough").text


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_NOFILE: (256, 1024), resource.RLIMIT_AS: (1 << 30, 1 << 30)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[which])
    assert found("open files").level is Level.WARNING
    assert found("address space").level is Level.PROBLEM


def test_variables_are_inside_or_outside_of_mounts(tmp_path: Path) -> None:
    mount = Mount(1, 0, 0, tmp_path / "hub" / "tmp", "fuse.dedupfs", str(tmp_path / "s"))
    environ = {
        "HOME": str(tmp_path),
        "HF_HOME": str(mount.path / "hf"),
        "MODELSCOPE_CACHE": str(tmp_path / "hub"),
        "CLEARML_CACHE_DIR": str(tmp_path / "clearml"),
    }
    levels = {one.what: one for one in places.environment_findings(environ, [mount])}
    assert "in the mount" in levels["HF_HOME"].text
    assert "has the mount" in levels["MODELSCOPE_CACHE"].text
    assert levels["CLEARML_CACHE_DIR"].level is Level.WARNING
    assert "dedupfs estimate" in levels["CLEARML_CACHE_DIR"].advice
    assert levels["HF_DATASETS_CACHE"].text.endswith("which is not there")
    assert set(levels) == set(places.CACHES)


def test_a_dead_mount_and_an_open_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mounts, "is_stale", lambda _mount: True)
    mount = Mount(1, 0, 0, tmp_path, "fuse.dedupfs", str(tmp_path / "s"))
    (dead,) = places.mount_findings([mount])
    assert dead.level is Level.PROBLEM
    assert "dedupfs umount" in dead.advice
    (tmp_path / "s").mkdir(mode=0o755)
    (tmp_path / "s/FORMAT").write_text("dedupfs store, format 1\n")
    first = next(places.store_findings(tmp_path / "s"))
    assert (first.level, "chmod 700" in first.advice) == (Level.WARNING, True)


def test_nothing_is_changed(tmp_path: Path) -> None:
    list(places.store_findings(tmp_path / "a" / "store"))
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    done = dedupfs("doctor", tmp_path / "cache", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == (0 if document["ok"] else 1)
    assert {"kernel", "/dev/fuse", "libfuse", "passthrough", "HF_HOME"} <= {
        one["what"] for one in document["findings"]
    }
    shown = dedupfs("doctor", tmp_path / "cache").stdout
    assert f"disk of {tmp_path / '.cache.dedupfs'}: " in shown
    assert "ok      kernel" in shown
    limited = subprocess.run(
        ["sh", "-c", f"ulimit -v 8000000; {sys.executable} -P -m dedupfs.cli doctor -q"],
        env=command_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert limited.returncode == 1
    assert "problem address space" in limited.stdout
    assert "ok      " not in limited.stdout
