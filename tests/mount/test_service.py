"""As a service of systemd: the real daemon's signs, its restart after a kill, and its confinement."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.service import systemd
from mount.mounted import Mounted, command_environment, dedupfs, is_mounted, wait_gone

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Mounted]:
    mounted = Mounted(tmp_path / "mnt", tmp_path / "store")
    mounted.path.mkdir()
    yield mounted
    mounted.clear()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.settimeout(20)
        yield link


def signs(manager: socket.socket, until: str) -> list[str]:
    seen: list[str] = []
    while until not in seen:
        seen += manager.recv(4096).decode().splitlines()
    return seen


def service(one: Mounted, *wrapper: str, **variables: str) -> subprocess.Popen[str]:
    """Start what a unit starts, with the environment that systemd gives."""
    command = [sys.executable, "-P", "-m", "dedupfs.cli", "mount", str(one.path), "--foreground"]
    return subprocess.Popen(
        [*wrapper, *command, "--store", str(one.store)],
        env={
            **command_environment(),
            "NOTIFY_SOCKET": str(one.path.parent / "notify"),
            **variables,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_is_ready_when_the_mount_answers_alive_meanwhile_and_says_when_it_stops(
    one: Mounted, manager: socket.socket
) -> None:
    with service(one, WATCHDOG_USEC="400000") as process:
        one.pid = process.pid
        seen = signs(manager, "READY=1")
        assert "STOPPING=1" not in seen
        assert is_mounted(one.path)
        (one.path / "f").write_text("kept")
        signs(manager, "WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        seen = signs(manager, "STOPPING=1")
        assert "READY=1" not in seen
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert not is_mounted(one.path)


def test_a_start_that_fails_is_never_ready(one: Mounted, manager: socket.socket) -> None:
    (one.path / "in the way").touch()
    with service(one) as process:
        _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "is not empty" in said
    manager.settimeout(0.1)
    with pytest.raises(TimeoutError):
        signs(manager, "READY=1")


def test_after_a_kill_the_next_start_is_ready_on_the_same_place(
    one: Mounted, manager: socket.socket
) -> None:
    with service(one) as process:
        one.pid = process.pid
        signs(manager, "READY=1")
        (one.path / "f").write_text("kept")
        process.kill()
    assert process.returncode == -signal.SIGKILL, "what Restart=on-failure acts on"
    assert is_mounted(one.path)
    with service(one) as process:
        one.pid = process.pid
        signs(manager, "READY=1")
        assert (one.path / "f").read_text() == "kept"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def test_what_a_unit_runs_after_the_daemon_clears_a_dead_mount_and_leaves_a_live_one(
    one: Mounted,
) -> None:
    after = ["umount", "--stale", str(one.path)]
    unit = systemd.make_unit(one.path, one.store, ["/x"], [], for_user=False).text
    assert f"ExecStopPost=-/x {' '.join(after)}\n" in unit
    assert dedupfs(*after).returncode == 0, "nothing is mounted"
    one.start()
    assert dedupfs(*after).returncode == 0
    assert one.alive()
    os.kill(one.pid, signal.SIGKILL)
    assert wait_gone(one.pid)
    assert "cleared the stale mount" in dedupfs(*after).stdout
    assert not is_mounted(one.path)


def test_it_mounts_and_lets_readers_past_it_with_the_capabilities_of_the_unit(
    one: Mounted, manager: socket.socket
) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("setpriv and root are needed")
    unit = systemd.make_unit(one.path, one.store, ["/x"], [], for_user=False).text
    kept = next(
        line.partition("=")[2] for line in unit.splitlines() if line.startswith("CapabilityBound")
    )
    bounds = ["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in kept.split())]
    with service(one) as process:
        one.pid = process.pid
        signs(manager, "READY=1")
        free = one.status()["io_mode"]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    with service(
        one, "setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={','.join(bounds)}"
    ) as process:
        one.pid = process.pid
        signs(manager, "READY=1")
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        bound = next(line.split()[1] for line in lines if line.startswith("CapBnd"))
        assert int(bound, 16).bit_count() == len(kept.split())
        (one.path / "f").write_bytes(b"content" * 100_000)
        assert (one.path / "f").read_bytes() == b"content" * 100_000
        assert one.status()["io_mode"] == free
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0
