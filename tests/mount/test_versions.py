"""Readers check every byte while writers replace, copy up, extend and delete, in processes.

What is lost if one fails: a reader was given torn, mixed or foreign bytes, or an error. SECONDS of
work, more by DEDUPFS_STRESS_S; DEDUPFS_STRESS_SEED gives other turns.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from crash.disk import MAKE, Disk
from mount.conftest import mounted
from mount.mounted import REPOSITORY, Mounted, command_environment
from mount.version_stress import wrong

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = float(os.environ.get("DEDUPFS_STRESS_S", "8"))
SEED = int(os.environ.get("DEDUPFS_STRESS_SEED", "1"))
WRITERS, READERS = 3, 3


@contextlib.contextmanager
def place(kind: str, base: Path) -> Iterator[Path]:
    """Give a folder on the file system named, "" for the one that tests are on."""
    if not kind:
        yield base
        return
    if os.geteuid() or not shutil.which(MAKE[kind][0]):
        pytest.skip(f"no {MAKE[kind][0]}, or not root")
    disk = Disk(kind, base / "image", base / "disk")
    disk.make()
    try:
        disk.mount()
        yield disk.path
        disk.unmount()
    finally:
        disk.clear()


@pytest.mark.timeout(120 + 10 * SECONDS)
@pytest.mark.parametrize(
    ("io", "kind"), [("passthrough", ""), ("passthrough", "xfs"), ("writeback", "")]
)
def test_readers_find_whole_versions_whatever_writers_do(
    tmp_path: Path, io: str, kind: str
) -> None:
    with place(kind, tmp_path) as base, mounted(base, io, "--checkpoint-interval=1") as mount:
        run(mount)
        files = [path for path in mount.path.rglob("*") if path.is_file()]
        assert not [text for path in files if (text := named_wrong(path))]
        mount.remount()
        assert not [text for path in files if (text := named_wrong(path))], "after a remount"


def named_wrong(path: Path) -> str:
    text = "" if path.name.startswith("temp") else wrong(path.read_bytes())
    return text and f"{path}: {text}"


def run(mount: Mounted) -> None:
    """Let all processes work; each must end well."""
    seconds = SECONDS / 3  # for three mounts
    roles = ["write"] * WRITERS + ["read"] * READERS
    started = [
        subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "mount.version_stress", role, mount.path,
             str(SEED * 100 + number), str(seconds)],
            env=command_environment() | {"PYTHONPATH": str(REPOSITORY / "tests")},
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number, role in enumerate(roles)
    ]  # fmt: skip
    failures = []
    for role, process in zip(roles, started, strict=True):
        out, error = process.communicate(timeout=60 + 5 * seconds)
        if process.returncode or int(out) < seconds:
            failures.append(f"{role}: {process.returncode}, {out.strip()} turns: {error[-1500:]}")
    assert not failures, "\n".join(failures) + mount.log()
    assert mount.alive(), mount.log()
