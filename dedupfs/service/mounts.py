"""The kernel's table of mounts: which dedupfs mounts there are, which are dead, how to end one.

Imports nothing heavy: commands use it before they know that they need FUSE.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator

FS_TYPE: Final = "fuse.dedupfs"
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_TURN_MAX_S: Final = 10.0
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


class Busy(MountError):
    """Something uses the mount."""


class DeadMount(MountError):
    """The process behind the mount is gone."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo; `source` is the store of a dedupfs mount."""

    mount_id: int
    parent_id: int
    device: int
    path: Path
    fs_type: str
    source: str

    @property
    def is_dedupfs(self) -> bool:
        """Whether dedupfs made it."""
        return self.fs_type == FS_TYPE

    @property
    def store(self) -> Path:
        """The store's folder."""
        return Path(self.source)


def _text(field: bytes) -> str:
    # The kernel writes space, tab, newline, backslash and # as octal (fs/proc_namespace.c).
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))


def parse_mount(line: bytes) -> Mount:
    """Return a line of mountinfo (proc_pid_mountinfo(5)) taken apart."""
    left, _, right = line.partition(b" - ")
    mount_id, parent_id, device, _root, path = left.split(b" ")[:5]
    fs_type, source = right.split(b" ")[:2]
    major, _, minor = device.partition(b":")
    return Mount(
        mount_id=int(mount_id),
        parent_id=int(parent_id),
        device=os.makedev(int(major), int(minor)),
        path=Path(_text(path)),
        fs_type=_text(fs_type),
        source=_text(source),
    )


def mounts() -> list[Mount]:
    """Return all mounts that this process can see, later ones last."""
    raw = Path("/proc/self/mountinfo").read_bytes()
    return [parse_mount(line) for line in raw.splitlines() if b" - " in line]


def mount_at(path: Path) -> Mount | None:
    """Return the topmost mount whose mount point is exactly `path` (already resolved)."""
    found = [mount for mount in mounts() if mount.path == path]
    return found[-1] if found else None


def resolve(path: Path | str) -> Path:
    """Return `path` absolute and without symlinks; works on a dead mount, too."""
    return Path(os.path.realpath(path))


def is_stale(mount: Mount) -> bool:
    """Return whether the process behind the mount is gone."""
    try:
        # Not stat(2): the kernel answers that from its cache, for ever (fs/fuse/dir.c).
        os.statvfs(mount.path)
    except OSError as error:
        return error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def check_alive(mount: Mount) -> None:
    """Raise DeadMount when the process behind the mount is gone."""
    if is_stale(mount):
        raise DeadMount(
            f"{mount.path}: its daemon has died: `dedupfs mount {mount.path}` clears the dead mount, "
            "nothing acknowledged is lost"
        )


def clear_stale(path: Path) -> bool:
    """Take a dedupfs mount at `path` away if its daemon is gone; return whether it was.

    Of several processes that find it stale one clears it: another could take away the new mount
    that the first has made since.
    """
    with _turn(path):
        mount = mount_at(path)
        if mount is None or not mount.is_dedupfs or not is_stale(mount):
            return False
        unmount(path, lazy=True)
        return True


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Keep other processes from the same for the block; an flock on the folder above the mount."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # a folder that only lets through; the unlikely race remains
        return
    try:
        # Others may lock that folder for reasons of their own: not for ever.
        deadline = time.monotonic() + _TURN_MAX_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                select.select([], [], [], 0.02)
        yield
    finally:
        os.close(fd)


def unmount(path: Path, *, lazy: bool = False) -> None:
    """Unmount; returns when the kernel has handed all dirty pages to the daemon.

    Raises Busy when something uses the mount, MountError for anything else.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if libc.umount2(os.fsencode(path), flags) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EBUSY:
        raise Busy(f"{path} is busy")
    if number != errno.EPERM:
        raise MountError(f"cannot unmount {path}: {os.strerror(number)}")
    _unmount_as_user(path, lazy=lazy)


def _unmount_as_user(path: Path, *, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(path)]
    try:
        done = subprocess.run(  # noqa: S603 - arguments are a path and our own flags
            command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise MountError("fusermount3 is missing: install the package fuse3") from None
    if done.returncode == 0:
        return
    text = " ".join(done.stderr.split())
    if "busy" in text:
        raise Busy(f"{path} is busy")
    raise MountError(f"cannot unmount {path}: {text or 'fusermount3 failed'}")
