"""The container image: built, run, and its mounts proved, where a container engine can be had."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def _has_engine() -> bool:
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.timeout(900)
def test_image_mounts_and_ends() -> None:
    # An engine is installed for it in CI only: nobody's machine changes for `make test`.
    if not (os.environ.get("CI") or _has_engine()):
        pytest.skip("no container engine answers: `make image` looks for more")
    done = subprocess.run(
        [REPOSITORY / "docker" / "test", "--if-possible"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0 and "image: " in done.stdout and " passed, " not in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failed" in done.stdout, done.stdout
