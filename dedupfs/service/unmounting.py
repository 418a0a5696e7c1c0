"""Ending a mount from outside: unmount, then wait until its daemon has put all on disk and ended."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import MountError
from dedupfs.service import busy, client, mounts

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.service.mounts import Mount

_LOOK_AROUND_S: Final = 3.0
_PASSING_S: Final = 1.0
_CLEARED: Final = "{}: the daemon was gone, cleared the stale mount"


def end_mount(path: Path) -> str:
    """Unmount `path` and wait for the daemon's end; return what there is to tell, or "".

    Raises MountError: the mount is busy (a line for each process that keeps it so), or not all
    could be put on disk.
    """
    mount = _dedupfs_mount(mounts.resolve(path))
    if mounts.is_stale(mount) and mounts.clear_stale(mount.path):
        return _CLEARED.format(mount.path)
    with client.witness(mount.store) as witness:
        process = _open_process(witness.pid) if witness else None
        try:
            _unmount(mount)
            if witness is None or process is None:
                return f"{mount.path}: unmounted, but its daemon cannot be seen from here"
            _await_end(mount, witness, process)
        finally:
            if process is not None:
                os.close(process)
    return ""


def clear_dead(path: Path) -> str:
    """Take a mount away if its daemon is gone, leave all else; return what there is to tell, or ""."""
    resolved = mounts.resolve(path)
    return _CLEARED.format(resolved) if mounts.clear_stale(resolved) else ""


def _unmount(mount: Mount) -> None:
    deadline = time.monotonic() + _PASSING_S
    while True:
        try:
            mounts.unmount(mount.path)
        except mounts.Busy:
            # A stat(2) that somebody just makes keeps it busy, too: that passes.
            if busy.holders(mount)[0] or busy.nested_mounts(mount) or time.monotonic() > deadline:
                raise mounts.Busy(_who(mount)) from None
            select.select([], [], [], 0.05)
        else:
            return


def _await_end(mount: Mount, witness: client.Witness, process: int) -> None:
    failure = _last_words(mount, witness)
    select.select([process], [], [])
    if failure is not None:
        raise MountError(f"{mount.path}: unmounted, but not all is on disk: {failure}")


def _last_words(mount: Mount, witness: client.Witness) -> str | None:
    while True:
        try:
            return witness.failure(_LOOK_AROUND_S)
        except TimeoutError:
            _check_elsewhere(mount)


def _check_elsewhere(mount: Mount) -> None:
    holder = busy.elsewhere(mount)
    if holder is not None:
        raise MountError(
            f"{mount.path}: unmounted here, but the daemon goes on: it is still mounted in "
            f"another mount namespace, that of {holder.line()}"
        )


def _dedupfs_mount(path: Path) -> Mount:
    mount = mounts.mount_at(path)
    if mount is None:
        raise MountError(f"{path} is not a mount point")
    if not mount.is_dedupfs:
        raise MountError(f"{path} is not a dedupfs mount but {mount.fs_type}")
    return mount


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # pid 0: it lives in a pid namespace that this process cannot see


def _who(mount: Mount) -> str:
    found, complete = busy.holders(mount)
    lines = [f"mounted inside it: {path}" for path in busy.nested_mounts(mount)]
    lines += [holder.line() for holder in found]
    if not lines:
        lines.append(
            "no process found that uses it: perhaps one in another container"
            if complete
            else "no process of yours uses it, others could not be looked at: try as root"
        )
    return f"{mount.path} is busy, nothing was unmounted:" + "".join(
        f"\n  {line}" for line in lines
    )
