"""Keeps XFS from allocating ahead of what is written: a limit would be passed by what nobody asked for.

Measured, it took 27 % more than a limit of 64 MiB. A file with an extent size hint gets no such blocks
(xfs_buffered_write_iomap_begin of fs/xfs/xfs_iomap.c); files inherit the hint of their directory.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

HINT_BYTES: Final = 16 << 10
_FSXATTR: Final = struct.Struct("=5I8x")  # struct fsxattr of include/uapi/linux/fs.h
_GET: Final = 0x801C581F  # FS_IOC_FSGETXATTR
_SET: Final = 0x401C5820  # FS_IOC_FSSETXATTR
_EXTSZINHERIT: Final = 0x1000  # FS_XFLAG_EXTSZINHERIT


def restrain(folder: Path) -> bool:
    """Set the hint for files made in `folder` from now on; return whether the file system took it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        raw = fcntl.ioctl(fd, _GET, bytes(_FSXATTR.size))
        flags, _hint, extents, project, cow_hint = _FSXATTR.unpack(raw)
        wanted = _FSXATTR.pack(flags | _EXTSZINHERIT, HINT_BYTES, extents, project, cow_hint)
        fcntl.ioctl(fd, _SET, wanted)
    except OSError:
        return False  # ext4, btrfs, tmpfs: they do not allocate ahead
    finally:
        os.close(fd)
    return True
