"""What must be true before a mount is tried; each refusal is one line that says the way out."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import MountError
from dedupfs.service import mounts

if TYPE_CHECKING:
    from dedupfs.service.options import MountOptions

FUSE_DEVICE: Final = Path("/dev/fuse")


def default_store(mountpoint: Path) -> Path:
    """Return the store of a mount that names none: a sibling of the mount point."""
    return mountpoint.parent / f".{mountpoint.name}.dedupfs"


def prepare(options: MountOptions) -> MountOptions:
    """Return the options with resolved paths, a dead mount of ours out of the way.

    Raises MountError.
    """
    resolved = replace(
        options,
        mountpoint=mounts.resolve(options.mountpoint),
        store=mounts.resolve(options.store),
        log_file=mounts.resolve(options.log_file) if options.log_file else None,
    )
    if resolved.log_to == "stderr" and not resolved.foreground:
        place = resolved.sources.get("log-to", "log-to")
        raise MountError(f"{place} stderr needs --foreground: in the background there is none")
    check_free(resolved.mountpoint)
    _check_mountpoint(resolved.mountpoint)
    _check_positions(resolved)
    _check_store(resolved.store)
    _check_fuse()
    return resolved


def check_free(mountpoint: Path) -> None:
    """Raise MountError when something of FUSE is mounted there; clear a dead mount of ours."""
    mount = mounts.mount_at(mountpoint)
    if mount is None:
        return
    stale = mounts.is_stale(mount)
    if mounts.mount_at(mountpoint) != mount:
        check_free(mountpoint)  # another process has cleared it meanwhile: not its state was seen
    elif mount.is_dedupfs and not stale:
        raise MountError(
            f"{mountpoint} is already a dedupfs mount (store {mount.source}): "
            f"end it with `dedupfs umount {mountpoint}`"
        )
    elif stale and not mount.is_dedupfs:
        raise MountError(
            f"{mountpoint} is a dead {mount.fs_type} mount: clear it with `umount -l {mountpoint}`"
        )
    elif stale:
        mounts.clear_stale(mountpoint)
        check_free(mountpoint)


def _check_mountpoint(mountpoint: Path) -> None:
    try:
        mode = mountpoint.lstat().st_mode
        if not stat.S_ISDIR(mode):
            raise MountError(f"mount point {mountpoint} is not a directory")
        with os.scandir(mountpoint) as entries:
            empty = next(entries, None) is None
    except FileNotFoundError:
        raise MountError(
            f"mount point {mountpoint} does not exist: `mkdir -p {mountpoint}` makes it"
        ) from None
    except OSError as error:
        raise MountError(f"mount point {mountpoint}: {error.strerror}") from None
    if not empty:
        raise MountError(
            f"mount point {mountpoint} is not empty, its files would be hidden: mount on an empty "
            f"directory, or let `dedupfs import {mountpoint}` take them into the store"
        )


def _check_positions(options: MountOptions) -> None:
    mountpoint, store = options.mountpoint, options.store
    if store.is_relative_to(mountpoint):
        raise MountError(
            f"the store {store} lies inside the mount point {mountpoint}: "
            "name one outside with --store DIR"
        )
    if mountpoint.is_relative_to(store):
        raise MountError(
            f"the mount point {mountpoint} lies inside the store {store}: "
            "name another with --store DIR"
        )
    if options.log_file and options.log_file.is_relative_to(mountpoint):
        raise MountError(
            f"the log file {options.log_file} lies inside the mount point {mountpoint}: "
            "name one outside with --log-file"
        )


def _check_store(store: Path) -> None:
    try:
        if store.exists() and not store.is_dir():
            raise MountError(f"the store {store} is not a directory")
    except OSError as error:
        raise MountError(f"the store {store}: {error.strerror}") from None


def _check_fuse() -> None:
    if not FUSE_DEVICE.exists():
        raise MountError(
            f"{FUSE_DEVICE} is missing: load the kernel module (modprobe fuse), or start the "
            "container with --device /dev/fuse --cap-add SYS_ADMIN"
        )
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise MountError(
            f"{FUSE_DEVICE}: no permission to open it: `chmod 666 {FUSE_DEVICE}` as root"
        )
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise MountError("fusermount3 is missing: install the package fuse3")
