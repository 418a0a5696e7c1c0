"""The whole file system over a store: its parts put together, started and ended."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING

from dedupfs.core.errors import FsError
from dedupfs.core.format import Inode
from dedupfs.core.types import PAGE_BYTES, ROOT_INO
from dedupfs.store import namespace
from dedupfs.vfs.directories import Directories
from dedupfs.vfs.files import Files
from dedupfs.vfs.inodes import Inodes
from dedupfs.vfs.inspecting import Inspector
from dedupfs.vfs.metadata import Metadata
from dedupfs.vfs.names import Names
from dedupfs.vfs.rename import Renames
from dedupfs.vfs.xattrs import Xattrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.core.types import Ino
    from dedupfs.store.store import Store

log = logging.getLogger(__name__)


class Vfs:
    """The operations of a file system, by their FUSE names; names and targets are bytes.

    They are the parts' own methods: one call less on every request. All raise
    `core.errors.FsError`, and OSError of the store's disk.
    """

    def __init__(self, store: Store, *, clock: Callable[[], int]) -> None:
        """`clock` gives ns since the epoch. Makes the root of a new store, ends a crash's orphans."""
        inodes = self._inodes = Inodes(store, clock)
        metadata = Metadata(inodes)
        names = Names(inodes)
        files = self._files = Files(inodes, metadata)
        directories = Directories(inodes, metadata)
        xattrs = Xattrs(inodes, files)

        self.forget = inodes.forget
        self.count_lookup = inodes.count_lookup
        self.forget_name = inodes.forget_name

        self.lookup = names.lookup
        self.readlink = names.readlink
        self.mknod = names.mknod
        self.mkdir = names.mkdir
        self.symlink = names.symlink
        self.link = names.link
        self.unlink = names.unlink
        self.rmdir = names.rmdir
        self.rename = Renames(inodes).rename

        self.getattr = metadata.getattr
        self.setattr = metadata.setattr
        self.statfs = metadata.statfs
        self.sync = metadata.sync

        self.open = files.open
        self.backing_id, self.is_direct = files.backing_id, files.is_direct
        self.create = files.create
        self.read = files.read
        self.write, self.settle_after = files.write, files.settle_after
        self.flush = files.flush
        self.fsync, self.release = files.fsync, files.release

        self.opendir, self.releasedir = directories.opendir, directories.releasedir
        self.readdir, self.may_keep_listing = directories.readdir, directories.may_keep
        self.fsyncdir = directories.fsyncdir
        self.enable_kept_listings = inodes.listings.enable

        self.getxattr, self.listxattr = xattrs.getxattr, xattrs.listxattr
        self.setxattr, self.removexattr = xattrs.setxattr, xattrs.removexattr

        self.inspect = Inspector(inodes, files).inspect
        passthrough = self.passthrough = files.passthrough
        self.wants_preparing, self.prepare = passthrough.wants_preparing, passthrough.prepare
        self._start()

    def serve_kernel(
        self,
        *,
        forget_name: Callable[[Ino, bytes], None],
        forget_attributes: Callable[[Ino], None],
        forget_listing: Callable[[Ino], None],
        keeps_times: bool,
    ) -> None:
        """Say how a kernel in front behaves.

        `forget_name` tells it that a name it remembers means something else now,
        `forget_attributes` that an inode's attributes changed, `forget_listing` that a directory
        has other entries than it heard of; `keeps_times`: it sets mtime and ctime of written files
        itself.
        """
        self._inodes.forget_attributes = forget_attributes
        self._inodes.forget_entry = forget_name
        self._inodes.listings.serve_kernel(forget_listing)
        self._inodes.kernel_keeps_times = keeps_times

    def _start(self) -> None:
        with self._inodes.change() as change:
            if namespace.find_inode(change.txn, ROOT_INO) is None:
                now = change.now_ns
                root = Inode(
                    mode=stat.S_IFDIR | 0o755, uid=os.geteuid(), gid=os.getegid(), nlink=2, rdev=0,
                    size=PAGE_BYTES, mapped_bytes=0, atime_ns=now, mtime_ns=now, ctime_ns=now,
                    parent=ROOT_INO,
                )  # fmt: skip
                namespace.add_inode(change.txn, root, ROOT_INO)
            left = namespace.orphans(change.txn)
        if left:
            log.info("dropping %d unlinked files that a killed process left", len(left))
        self._inodes.orphans.update(left)
        self._inodes.drop_orphans(left)

    def drop_unused(self) -> bool:
        """Drop some of the unlinked files that nothing uses; return whether there may be more.

        Large ones wait for this, and those for which there was no room. Raises NoSpace.
        """
        return self._inodes.drop_unused()

    def close(self) -> None:
        """Place all pending bytes, close all handles, drop all unlinked files."""
        self._files.close()
        try:
            self._inodes.drop_all_orphans()
        except (FsError, OSError):
            log.exception("unlinked files are left to the next start")
