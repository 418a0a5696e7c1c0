"""A mount for tests: starts the real `dedupfs mount`, ends it, and looks that nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def command_environment() -> dict[str, str]:
    """Return an environment in which `python -m dedupfs.cli` finds this checkout from any folder."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "COLUMNS": "200",
        "DEDUPFS_CONFIG": os.devnull,  # not the files of who runs the tests
    }


def dedupfs(*arguments: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the `dedupfs` command; the caller looks at returncode, stdout and stderr."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "dedupfs.cli", *map(str, arguments)],
        env=command_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def one_line(text: str) -> str:
    """Return the only line of `text`."""
    assert len(text.splitlines()) == 1, text
    return text.strip()


def is_mounted(path: Path) -> bool:
    """Return whether a FUSE file system is mounted on `path`."""
    want = str(path).replace("\\", r"\134").replace(" ", r"\040")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == want and " - fuse" in line for line in lines)


def is_running(pid: int) -> bool:
    """Return whether the process is there and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_gone(pid: int, timeout_s: float = 20) -> bool:
    """Return whether the process ended within `timeout_s`."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


@dataclass
class Mounted:
    """A dedupfs mount of its own: `path` is the mount point, `store` lies beside it."""

    path: Path
    store: Path
    io: str = "writeback"
    arguments: list[str] = field(default_factory=list)
    pid: int = 0

    def start(self) -> None:
        """Mount; raises AssertionError with the command's own words when it fails."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path)  # unlike Path.mkdir(exist_ok=True) it stands a stale mount
        done = dedupfs("mount", self.path, "--store", self.store, "--io", self.io, *self.arguments)
        assert done.returncode == 0, f"mount failed: {done.stderr}{self.log()}"
        self.pid = self.status_number("pid")

    def status(self) -> dict[str, object]:
        """Return what `dedupfs status --json` says."""
        done = dedupfs("status", self.path, "--json")
        assert done.returncode == 0, f"status failed: {done.stderr}{self.log()}"
        document = json.loads(done.stdout)
        assert isinstance(document, dict)
        return document

    def status_number(self, key: str) -> int:
        """Return one integer of the status."""
        value = self.status()[key]
        assert isinstance(value, int)
        return value

    def log(self) -> str:
        """Return the end of the daemon's log, to be shown when a test fails."""
        path = self.store / "dedupfs.log"
        return "\n" + path.read_text(errors="replace")[-8000:] if path.exists() else ""

    def alive(self) -> bool:
        """Return whether the daemon runs and the mount answers."""
        return is_running(self.pid) and is_mounted(self.path)

    def stop(self) -> None:
        """Unmount with `dedupfs umount`; asserts that the daemon was alive and has ended."""
        assert self.alive(), f"the daemon died: {self.log()}"
        done = dedupfs("umount", self.path)
        assert done.returncode == 0, f"umount failed: {done.stderr}{self.log()}"
        assert not is_mounted(self.path), "umount said 0 but the mount is there"
        assert not is_running(self.pid), "umount said 0 but the daemon runs"

    def remount(self) -> None:
        """Unmount and mount again, same store: kernel caches are gone, the store was reopened."""
        self.stop()
        self.start()

    def clear(self) -> None:
        """Leave nothing behind, whatever happened before."""
        if self.pid and is_running(self.pid):
            os.kill(self.pid, 9)
            wait_gone(self.pid)
        if is_mounted(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=False)
