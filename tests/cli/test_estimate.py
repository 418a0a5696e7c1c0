"""What `dedupfs estimate` says is what a user decides by: too high is a promise not kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dedupfs.transfer import estimating
from dedupfs.transfer.estimating import Estimate, Estimator
from dedupfs.transfer.tree import silent
from mount.mounted import command_environment, dedupfs

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def estimate(root: Path, sample: float = 1.0) -> Estimate:
    work = Estimator(os.fsencode(root), silent, sample=sample)
    work.run()
    return work.result()


def test_copies_shifted_bytes_and_zeros_are_seen(tmp_path: Path) -> None:
    content = os.urandom(4 * MIB)
    for rank in range(4):
        (tmp_path / f"rank{rank}").mkdir()
        (tmp_path / f"rank{rank}/a").write_bytes(content)
    (tmp_path / "shifted").write_bytes(b"x" * 1000 + content)
    (tmp_path / "zeros").write_bytes(bytes(MIB))
    os.link(tmp_path / "shifted", tmp_path / "hard")
    found = estimate(tmp_path)
    assert found.files == 6
    assert found.logical_bytes == 21 * MIB + 1000
    assert found.zero_bytes == MIB
    assert found.unique_bytes == pytest.approx(4 * MIB, rel=0.06)
    assert [(one.count, one.file_bytes) for one in found.duplicates] == [(4, 4 * MIB)]
    assert found.duplicate_bytes == 12 * MIB
    own = {folder.name: folder.own_bytes for folder in found.folders}
    assert own["rank0"] == own["rank3"] == 0
    assert own["."] < 300_000


def test_holes_take_no_time_and_no_space(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 42)
        file.seek(1 << 40)
        file.write(os.urandom(8192))
    found = estimate(tmp_path)
    assert found.read_bytes == found.logical_bytes == 8192
    assert estimate(tmp_path, 0.5).read_bytes in {0, 8192}


def test_memory_is_bounded_and_the_result_stays_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(64 * MIB)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(content)
    monkeypatch.setattr(estimating, "CHUNKS_MAX", 200)
    work = Estimator(os.fsencode(tmp_path), silent)
    work.run()
    assert len(work._chunks) <= 201
    assert work.result().unique_bytes == pytest.approx(64 * MIB, rel=0.3)


def test_a_sample_reads_less_and_finds_the_same_ratio(tmp_path: Path) -> None:
    content = os.urandom(80 * MIB)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(b"header" + content)
    found = estimate(tmp_path, 0.4)
    assert 0 < found.read_bytes < found.logical_bytes * 0.7
    assert found.ratio == pytest.approx(2.0, rel=0.1)


def test_the_command_tells_people_and_programs(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("x/a", "x/b", "line\nbreak"):
        (tmp_path / name).write_bytes(b"y" * 100_000)
    done = dedupfs("estimate", tmp_path)
    assert done.returncode == 0
    assert "3 files, 293.0 KiB" in done.stdout
    assert "ratio 3.0" in done.stdout
    assert "3 x 97.7 KiB" in done.stdout
    document = json.loads(dedupfs("estimate", tmp_path, "--json", "--sample", "100%").stdout)
    assert document["complete"] is True
    assert document["files"] == 3
    for arguments, part in (
        (["estimate", tmp_path / "no"], "No such file"),
        (["estimate", tmp_path, "--sample", "0"], "want a part above 0"),
        (["estimate", tmp_path, "--sample", "ten"], "want a part above 0"),
    ):
        refused = dedupfs(*arguments)
        assert refused.returncode in {1, 2}
        assert part in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


def test_ctrl_c_gives_what_was_found_so_far(tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.writelines(os.urandom(32 * MIB) for _ in range(3))
    code = (
        "import sys, os, signal\n"
        "from dedupfs.transfer import estimating\n"
        "real = estimating.Estimator._note_read\n"
        "def note(self, *rest):\n"
        "    real(self, *rest)\n"
        f"    if self._estimate.read_bytes == {32 * MIB}: os.kill(os.getpid(), signal.SIGINT)\n"
        "estimating.Estimator._note_read = note\n"
        "from dedupfs.cli.main import main\n"
        f"sys.argv = ['dedupfs', 'estimate', {str(tmp_path)!r}, '--json']\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=command_environment(), capture_output=True, text=True,
        check=False, restore_signals=True,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGINT
    document = json.loads(done.stdout)
    assert document["complete"] is False
    assert document["read_bytes"] == 32 * MIB
    assert document["unique_bytes"] == pytest.approx(96 * MIB, rel=0.02)
