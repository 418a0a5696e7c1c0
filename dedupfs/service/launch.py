"""Starting the daemon in the background: a new process, and a pipe on which it says how it went."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING, Final

from dedupfs.core.errors import MountError
from dedupfs.service import client, mounts

if TYPE_CHECKING:
    from dedupfs.service.options import MountOptions

READY: Final = "ready"
LIBFUSE_HINT: Final = " (libfuse says why on standard error)"
_END_TIMEOUT_S: Final = 30
_ANSWERS_S: Final = 10.0

# Daemons of this process that run: a program that mounts goes on, and is to have no zombies.
_running: Final[list[subprocess.Popen[bytes]]] = []


def start(options: MountOptions) -> None:
    """Start a daemon for prepared options; return when its mount answers.

    Raises MountError with the daemon's own words when it failed; nothing is left behind then.
    """
    with tempfile.TemporaryFile() as errors:
        daemon, message = _spawn(options, errors)
        if message != READY:
            _end(daemon)
            raise MountError(_why(message, errors))
        try:
            _check_answers(options)
        except BaseException:
            _end(daemon)
            raise
        _running.append(daemon)


def reap() -> None:
    """Take note of daemons that this process started and that have ended."""
    _running[:] = [daemon for daemon in list(_running) if daemon.poll() is None]


def await_other(options: MountOptions) -> int | None:
    """Return the pid of a daemon that serves the same store at the same place, or None.

    One that has just mounted is waited for until it answers.
    """
    deadline = time.monotonic() + _ANSWERS_S
    while time.monotonic() < deadline:
        mount = mounts.mount_at(mounts.resolve(options.mountpoint))
        if mount is None or not mount.is_dedupfs or mount.store != mounts.resolve(options.store):
            return None
        status = client.ask(mount.store, "status")
        if status is not None and isinstance(pid := status.get("pid"), int):
            return pid
        select.select([], [], [], 0.05)
    return None


def _spawn(options: MountOptions, errors: IO[bytes]) -> tuple[subprocess.Popen[bytes], str]:
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8", errors="replace") as answer:  # noqa: PTH123 - a descriptor
        # Not a fork of this process: an LMDB environment must not cross one, and trio neither.
        # -P: nothing is imported from the current folder.
        arguments = ["-P", "-m", "dedupfs.service", str(writing), options.to_json()]
        try:
            daemon = subprocess.Popen(  # noqa: S603 - this interpreter, this package
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[writing],
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(writing)
        try:
            return daemon, answer.read().strip()
        except BaseException:
            _end(daemon)
            raise


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        daemon.kill()


def _why(message: str, errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    if not message:
        return f"the daemon died while starting: {said[-1] if said else 'it gave no reason'}"
    # libfuse and fusermount3 know why the kernel refused, but tell only stderr.
    fuse = [line for line in said if line.startswith(("fuse:", "fusermount3:"))]
    return f"{message.removesuffix(LIBFUSE_HINT)} ({fuse[-1]})" if fuse else message


def _check_answers(options: MountOptions) -> None:
    try:
        device = options.mountpoint.stat().st_dev
    except OSError as error:
        raise MountError(
            f"the mount at {options.mountpoint} died: {error.strerror} (see {options.log_path})"
        ) from None
    mount = mounts.mount_at(options.mountpoint)
    if mount is None or not mount.is_dedupfs or mount.device != device:
        raise MountError(f"{options.mountpoint}: mounted, but no dedupfs is there")
    if client.ask(options.store, "status") is None:
        raise MountError(f"{options.mountpoint}: mounted, but the daemon does not answer")
