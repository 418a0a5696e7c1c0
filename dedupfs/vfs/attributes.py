"""What goes in and out of the vfs: attributes, changes of them, owners, space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from dedupfs.core.format import Inode
    from dedupfs.core.types import Ino

SECTOR_BYTES: Final = 512  # the unit of st_blocks, whatever st_blksize says
# stdio and Python buffer this much: large enough for few requests, small enough not to read a
# megabyte for every seek.
BLKSIZE_BYTES: Final = 128 << 10
# The kernel keeps 64-bit seconds, an inode row 64-bit nanoseconds: clamp, as ext4 does to its range.
TIME_MIN_NS: Final = -(1 << 31) * 10**9
TIME_MAX_NS: Final = (1 << 63) - 1


class Owner(NamedTuple):
    """Who makes a file."""

    uid: int
    gid: int
    tid: int = 0  # its thread; 0: not known


@dataclass(slots=True)
class Attributes:
    """An inode as `stat` shows it. Valid until the next call: the inode is the live one."""

    ino: Ino
    inode: Inode
    held_bytes: int  # mapped, or written and still in memory

    @property
    def blocks(self) -> int:
        """What st_blocks says: units of 512 bytes, holes left out."""
        return -(-self.held_bytes // SECTOR_BYTES)


@dataclass(slots=True)
class SetAttr:
    """What `setattr` is to change; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None  # None: now
    caller_uid: int = 0  # who asks

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked.

        With FUSE_HANDLE_KILLPRIV_V2 that is chown(-1, -1), or somebody without CAP_FSETID is
        about to write: setuid and setgid bits are to go (fuse_setattr of fs/fuse/dir.c).
        """
        nothing = self.mode is self.uid is self.gid is self.size is None
        return nothing and self.atime_ns is None and self.mtime_ns is None

    @property
    def drops_privileges(self) -> bool:
        """Whether setuid and setgid bits go, where the kernel leaves that to us."""
        if self.mode is not None:
            return False
        if self.uid is not None or self.gid is not None:
            return True
        return self.size is not None and self.caller_uid != 0


class Space(NamedTuple):
    """What `statfs` says; blocks are of PAGE_BYTES."""

    blocks: int
    free_blocks: int
    files: int
    free_files: int


def clamp_time(time_ns: int) -> int:
    """Return the nearest time that an inode can hold."""
    return max(TIME_MIN_NS, min(time_ns, TIME_MAX_NS))
