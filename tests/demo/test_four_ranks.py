"""The demo runs, keeps its promises, and leaves nothing behind.

What is lost if one fails: the first impression; a mount and gigabytes in /tmp after Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(
        not os.path.exists("/dev/fuse") and not os.environ.get("CI"), reason="no /dev/fuse"
    ),
]

DEMO = Path(__file__).with_name("four_ranks.py")


def demo(folder: Path, size_mib: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, DEMO, "--size-mib", str(size_mib), "--dir", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "120"},
        start_new_session=True,
    )


def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    with demo(tmp_path, 72) as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "12 of 12" in output
    assert "NO" not in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path, 400) as process:
        assert process.stdout
        for line in process.stdout:
            if "ranks write" in line:
                break
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
