"""Whether what a killed process left in the page cache can still be there.

The cache is lost with a reboot, and when the store's file system is taken away and mounted again
under a running kernel (a disk pulled out, a forced shutdown of the file system).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final, NamedTuple

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_AT_EMPTY_PATH: Final = 0x1000
_STATX_MNT_ID_UNIQUE: Final = 0x4000  # Linux 6.8; before, the bit is ignored
_STATX_MNT_ID: Final = 0x1000
_STATX_BYTES: Final = 256
_STX_MNT_ID: Final = slice(0x90, 0x98)  # of struct statx, include/uapi/linux/stat.h

_libc = ctypes.CDLL(None, use_errno=True)


class Instance(NamedTuple):
    """The life of a page cache: one boot, and one mounting of the store's file system."""

    boot_id: bytes  # 16 bytes
    mount_id: int


def current(folder: Path) -> Instance:
    """Return the instance that holds what is written to `folder` now."""
    return Instance(boot_id(), _mount_id(folder))


def boot_id() -> bytes:
    """Return the 16 bytes that name this boot."""
    return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))


def is_cache_lost(written_by: Instance, now: Instance, *, is_any_cached: bool) -> bool:
    """Tell whether what `written_by` did not sync is gone.

    A container that starts again sees the same file system through another mount: so another
    mount id alone proves nothing, only together with a file of which no page is in memory.
    """
    if written_by.boot_id != now.boot_id:
        return True
    return written_by.mount_id != now.mount_id and not is_any_cached


def _mount_id(folder: Path) -> int:
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        mask = _STATX_MNT_ID_UNIQUE | _STATX_MNT_ID
        if _libc.statx(fd, b"", _AT_EMPTY_PATH, mask, buffer):
            return 0
    finally:
        os.close(fd)
    return int.from_bytes(buffer.raw[_STX_MNT_ID], "little")


def is_any_page_cached(file: Path) -> bool:
    """Tell whether the page cache holds anything of `file`, without reading it."""
    size = file.stat().st_size
    if not size:
        return True
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    # A private writable map touches no page, and lets ctypes take its address.
    with (
        file.open("rb") as opened,
        mmap.mmap(
            opened.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        ) as view,
    ):
        start = (ctypes.c_char * size).from_buffer(view)
        unknown = _libc.mincore(ctypes.byref(start), ctypes.c_size_t(size), pages)
        del start
    return bool(unknown) or any(page & 1 for page in pages)


def uncache(file: Path) -> None:
    """Let go of the pages of a file that reading it brought into memory."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def sync_file_system(folder: Path) -> None:
    """Make everything on the file system of `folder` durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(folder))
    finally:
        os.close(fd)
