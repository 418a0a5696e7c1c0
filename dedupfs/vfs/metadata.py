"""Attributes: chmod, chown, utimens, truncate, space, and making it all durable."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import trio

from dedupfs.core.errors import FileTooBig, InvalidArgument, IsADirectory, NotPermitted
from dedupfs.core.types import FILE_MAX_BYTES, PAGE_BYTES
from dedupfs.vfs.attributes import Attributes, SetAttr, Space, clamp_time
from dedupfs.vfs.passthrough import refuse_change

if TYPE_CHECKING:
    from dedupfs.core.format import Inode
    from dedupfs.core.types import Ino
    from dedupfs.vfs.inodes import Change, Inodes


class Metadata:
    """The operations on attributes and on the file system as a whole."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes
        self._store = inodes.store
        # Held while a sync runs: those who wait for it share the next one.
        self._sync_lock = trio.Lock()
        self._asked = 0
        self._synced = 0

    def getattr(self, ino: Ino) -> Attributes:
        """Return what `stat` shows; raise NoSuchName when the inode is gone."""
        return self._inodes.getattr(ino)

    def setattr(self, ino: Ino, wanted: SetAttr) -> Attributes:
        """Change attributes; return them.

        Raises FileTooBig, IsADirectory, InvalidArgument, NotPermitted, Stale.
        """
        if wanted.size is not None:
            refuse_change(self._inodes, ino)
        with self._inodes.change() as change:
            inode = change.inode(ino)
            change.put(ino)
            if not (self._inodes.kernel_keeps_times and stat.S_ISREG(inode.mode)):
                inode.ctime_ns = change.now_ns
            if wanted.size is not None:
                self._truncate(change, ino, inode, wanted.size)
            if wanted.is_empty:
                self._drop_privileges(ino, inode, wanted.caller_uid)
            _set_fields(inode, wanted)
        if wanted.atime_ns is not None or wanted.mtime_ns is not None:
            self._inodes.units.touch(ino, self._inodes.clock())
        live = self._inodes.live.get(ino)
        if live is None:
            return Attributes(ino, inode, inode.mapped_bytes)
        if wanted.size is not None and live.writer is not None:
            # After the commit: had that failed, the bytes would still be the file's.
            live.writer.truncate(wanted.size)
        return Attributes(ino, inode, inode.mapped_bytes + live.pending_bytes)

    def _truncate(self, change: Change, ino: Ino, inode: Inode, size: int) -> None:
        if stat.S_ISDIR(inode.mode):
            raise IsADirectory(f"inode {ino}")
        if not stat.S_ISREG(inode.mode):
            raise InvalidArgument(f"inode {ino} has no size")
        if size > FILE_MAX_BYTES:
            raise FileTooBig(f"{size} bytes, limit {FILE_MAX_BYTES}")
        if size < inode.size:
            inode.mapped_bytes += self._store.truncate(change.txn, ino, size)
        inode.size = size
        if not self._inodes.kernel_keeps_times:
            inode.mtime_ns = change.now_ns

    def _drop_privileges(self, ino: Ino, inode: Inode, caller_uid: int) -> None:
        """Clear setuid and setgid for a caller who is about to write, or asks as the owner may.

        A stranger without an open file asks by chown(-1, -1): for him the kernel's own check
        does not happen (notify_change of fs/attr.c has it behind the bits that FUSE takes off).
        """
        before = inode.mode
        drop_privileges(inode)
        live = self._inodes.live.get(ino)
        is_stranger = caller_uid not in {0, inode.uid}
        if is_stranger and inode.mode != before and not (live and live.writing_handles):
            raise NotPermitted(f"inode {ino}: only its owner may take its setuid bits")

    async def sync(self) -> None:
        """Make all that is committed durable. Callers who wait at once share one checkpoint."""
        self._asked += 1
        ticket = self._asked
        async with self._sync_lock:
            if self._synced >= ticket:
                return
            covered = self._asked
            checkpoint = self._store.begin_checkpoint()
            if checkpoint is not None:
                succeeded = False
                try:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(checkpoint.write)
                    succeeded = True
                finally:
                    self._store.end_checkpoint(checkpoint, succeeded=succeeded)
            self._synced = covered

    def statfs(self) -> Space:
        """Return the space: used is what the store takes on disk, free what its disk has left."""
        host = self._store.statvfs()
        counters = self._store.index.counters
        used_bytes = counters.allocated_bytes + self._store.index.size_bytes()
        free_blocks = host.f_bavail * host.f_frsize // PAGE_BYTES
        return Space(
            blocks=-(-used_bytes // PAGE_BYTES) + free_blocks,
            free_blocks=free_blocks,
            files=counters.files + counters.directories + host.f_favail,
            free_files=host.f_favail,
        )


def _set_fields(inode: Inode, wanted: SetAttr) -> None:
    if wanted.mode is not None:
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(wanted.mode)
    elif wanted.drops_privileges:
        drop_privileges(inode)
    if wanted.uid is not None:
        inode.uid = wanted.uid
    if wanted.gid is not None:
        inode.gid = wanted.gid
    if wanted.atime_ns is not None:
        inode.atime_ns = clamp_time(wanted.atime_ns)
    if wanted.mtime_ns is not None:
        inode.mtime_ns = clamp_time(wanted.mtime_ns)
    if wanted.ctime_ns is not None:
        inode.ctime_ns = clamp_time(wanted.ctime_ns)


def drop_privileges(inode: Inode) -> None:
    """Clear setuid, and setgid where it means privilege (setattr_should_drop_sgid, fs/attr.c)."""
    if stat.S_ISDIR(inode.mode):
        return
    inode.mode &= ~stat.S_ISUID
    if inode.mode & stat.S_IXGRP:
        inode.mode &= ~stat.S_ISGID
