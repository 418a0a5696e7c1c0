"""A store as a folder to copy into or out of: mounted for that at a private place, or as it is."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import MountError
from dedupfs.core.format import STORE_FILES
from dedupfs.core.quantities import MinFree
from dedupfs.service import mounts, sharing
from dedupfs.service.options import MountOptions
from dedupfs.transfer.tree import TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX: Final = "dedupfs-copy-"


@contextlib.contextmanager
def folder_of(store: Path, *, read_only: bool = False) -> Iterator[bytes]:
    """Yield a folder that shows what the store holds; at the end all is on disk.

    A store that is mounted is used through its mount, which stays. Raises DedupfsError.
    """
    mounted = _mount_of(store)
    place = mounted or Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        # Nothing is to be evicted while it is copied or compared.
        options = MountOptions(place, store, min_free=MinFree(), extra=("ro",) if read_only else ())
        shared = sharing.take(options)
        try:
            yield os.fsencode(place)
            if not read_only:
                _make_durable(place)
        except OSError as error:
            if error.errno not in {errno.ENOTCONN, errno.ECONNABORTED}:
                raise
            raise TransferError(
                f"the daemon of {store} has died (see {store / 'dedupfs.log'}): "
                "the same command goes on from here"
            ) from None
        finally:
            if shared.end(wait_s=0) is sharing.End.BUSY:
                raise MountError(
                    f"{place} is in use by another process and stays mounted: `dedupfs umount "
                    f"{place}` when it has ended, then run the command again"
                )
    finally:
        # Also one that a killed command has left.
        if place.name.startswith(_PREFIX):
            with contextlib.suppress(OSError):
                place.rmdir()


def drop_pages(store: Path) -> None:
    """Let the kernel forget what it holds of the segments, so that reads come from the disk."""
    folder = store / STORE_FILES["segments"]
    for segment in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            fd = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def _mount_of(store: Path) -> Path | None:
    live = [
        mount
        for mount in mounts.mounts()
        if mount.is_dedupfs and mount.store == store and not mounts.is_stale(mount)
    ]
    return live[-1].path if live else None


def _make_durable(place: Path) -> None:
    # fsync of a folder is a checkpoint of the whole store.
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
