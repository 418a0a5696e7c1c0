"""Attributes and space, translated between the vfs and pyfuse3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyfuse3

from dedupfs.core.types import NAME_MAX_BYTES, PAGE_BYTES
from dedupfs.vfs.attributes import BLKSIZE_BYTES, SetAttr

if TYPE_CHECKING:
    from dedupfs.vfs.attributes import Attributes, Space

# Every change passes through this process, so what the kernel remembers stays right.
TIMEOUT_S: Final = 86_400.0


def entry(attributes: Attributes) -> pyfuse3.EntryAttributes:
    """Return the attributes as the kernel wants them."""
    inode = attributes.inode
    made = pyfuse3.EntryAttributes()
    made.entry_timeout = made.attr_timeout = TIMEOUT_S
    made.st_ino = attributes.ino
    made.st_mode = inode.mode
    made.st_nlink = inode.nlink
    made.st_uid = inode.uid
    made.st_gid = inode.gid
    made.st_rdev = inode.rdev
    made.st_size = inode.size
    made.st_blocks = attributes.blocks
    made.st_blksize = BLKSIZE_BYTES
    made.st_atime_ns = inode.atime_ns
    made.st_mtime_ns = inode.mtime_ns
    made.st_ctime_ns = inode.ctime_ns
    return made


def absent() -> pyfuse3.EntryAttributes:
    """Return the answer "no such name" that the kernel remembers, too."""
    made = pyfuse3.EntryAttributes()
    made.st_ino = 0
    made.entry_timeout = TIMEOUT_S
    return made


def changes(
    attributes: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields, *, caller_uid: int
) -> SetAttr:
    """Return what the kernel asks `setattr` to change."""
    return SetAttr(
        mode=attributes.st_mode if fields.update_mode else None,
        uid=attributes.st_uid if fields.update_uid else None,
        gid=attributes.st_gid if fields.update_gid else None,
        size=attributes.st_size if fields.update_size else None,
        atime_ns=attributes.st_atime_ns if fields.update_atime else None,
        mtime_ns=attributes.st_mtime_ns if fields.update_mtime else None,
        ctime_ns=attributes.st_ctime_ns if fields.update_ctime else None,
        caller_uid=caller_uid,
    )


def statvfs(space: Space) -> pyfuse3.StatvfsData:
    """Return the space as the kernel wants it."""
    made = pyfuse3.StatvfsData()
    made.f_bsize = made.f_frsize = PAGE_BYTES
    made.f_blocks = space.blocks
    made.f_bfree = made.f_bavail = space.free_blocks
    made.f_files = space.files
    made.f_ffree = made.f_favail = space.free_files
    made.f_namemax = NAME_MAX_BYTES
    return made
