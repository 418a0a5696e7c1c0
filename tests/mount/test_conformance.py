"""Every system call does on the mount what it does on a plain directory of the same machine.

Twenty thousand cases, made from tables, run on both by a child process that takes other users' ids.
Wanted alike: the answer or errno of each call, and what it changed: kind, mode, links, owners, size,
which times, data, targets and extended attributes of every object around. What a program would lose
if this failed is its portability: it would meet an answer that no ext4 gives.

`compare.ACCEPTED` lists the differences that FUSE or the design settle, each with its reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mount.conformance import compare
from mount.conformance.cases import GROUPS
from mount.mounted import REPOSITORY, Mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be the other users"),
    pytest.mark.timeout(600),
]
SHOWN = 40
# What the io mode has a part in; names and permissions are looked at once.
DATA_GROUPS = (
    "clearing",
    "open",
    "truncate",
    "write",
    "seek",
    "allocate",
    "map",
    "times",
    "unlinked",
)


@pytest.fixture(scope="module", params=["writeback", "passthrough"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mounted]:
    """Return a mount that other users may enter."""
    base = tmp_path_factory.mktemp("conformance")
    one = Mounted(base / "mnt", base / "store", request.param, ["--allow-other"])
    try:
        one.start()
        yield one
        one.stop()
    finally:
        one.clear()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the plain directory; its answers serve both io modes."""
    return tmp_path_factory.mktemp("plain")


def child(mode: str, folder: Path, out: Path, *groups: str) -> subprocess.Popen[bytes]:
    """Start the runner."""
    words = [sys.executable, "-P", "-m", "mount.conformance.runner", mode, folder, out, *groups]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")}
    return subprocess.Popen([*map(str, words)], env=environment, stdin=subprocess.DEVNULL)


def report(process: subprocess.Popen[bytes], out: Path) -> compare.Report:
    """Wait for the runner; return what it wrote."""
    assert process.wait() == 0, "the runner failed: see above"
    found = json.loads(out.read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture
def group(request: pytest.FixtureRequest, shared: Mounted) -> str:
    """Return the group to run; skip it where it was looked at already."""
    name = request.param
    if shared.io != "writeback" and name not in DATA_GROUPS:
        pytest.skip("the io mode has no part in it")
    assert isinstance(name, str)
    return name


@pytest.fixture
def answers(
    group: str, plain: Path, tmp_path: Path, shared: Mounted
) -> tuple[compare.Report, compare.Report]:
    """Return the answers of a group on the plain directory and on the mount."""
    here, there = plain.parent / f"{plain.name}-{group}.json", tmp_path / "mount.json"
    on_mount = child("run", shared.path, there, group)
    if not here.exists():
        report(child("run", plain, here, group), here)
        shutil.rmtree(plain / group)  # a hundred thousand objects are not left to pytest
    return json.loads(here.read_text()), report(on_mount, there)


@pytest.mark.parametrize("group", GROUPS, indirect=True)
def test_calls_do_what_they_do_on_a_plain_directory(
    answers: tuple[compare.Report, compare.Report], group: str, shared: Mounted
) -> None:
    cases = GROUPS[group]()
    found = compare.differences(cases, *answers, io=shared.io)
    assert shared.alive(), f"the daemon died: {shared.log()}"
    text = "\n\n".join(found[:SHOWN])
    assert not found, f"{len(found)} of {len(cases)} cases of {group} differ:\n\n{text}"


def test_all_objects_of_the_cases_are_the_same_after_a_remount(
    shared: Mounted, tmp_path: Path
) -> None:
    """Modes, owners, links, sizes, times to the nanosecond, data: as the kernel showed them before."""
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    was = report(child("look", shared.path, before), before)
    shared.remount()
    is_now = report(child("look", shared.path, after), after)
    changed = [
        f"{path}: before {was.get(path)}, after {is_now.get(path)}"
        for path in sorted(was.keys() | is_now.keys())
        if not compare.survived(was.get(path), is_now.get(path), io=shared.io)
    ]
    text = "\n".join(changed[:SHOWN])
    assert not changed, f"{len(changed)} of {len(was)} objects changed:\n{text}"
