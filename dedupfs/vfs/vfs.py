"""The whole file system over a store: its parts put together, started and ended."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from typing import TYPE_CHECKING

from dedupfs.core.errors import FsError, NeedsRoom, NoSpace
from dedupfs.core.eviction import Settings
from dedupfs.core.format import Inode
from dedupfs.core.policies import POLICIES
from dedupfs.core.types import PAGE_BYTES, ROOT_INO
from dedupfs.store import namespace
from dedupfs.vfs.directories import Directories
from dedupfs.vfs.eviction import Evictor
from dedupfs.vfs.files import Files
from dedupfs.vfs.inodes import Inodes
from dedupfs.vfs.inspecting import Inspector
from dedupfs.vfs.metadata import Metadata
from dedupfs.vfs.names import Names
from dedupfs.vfs.pins import Pins
from dedupfs.vfs.rename import Renames
from dedupfs.vfs.room import MARGIN_BYTES, Room
from dedupfs.vfs.units import Units
from dedupfs.vfs.xattrs import Xattrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.core.types import Ino
    from dedupfs.store.store import Store
    from dedupfs.store.txn import Txn

log = logging.getLogger(__name__)


class Vfs:
    """The operations of a file system, by their FUSE names; names and targets are bytes.

    They are the parts' own methods: one call less on every request. All raise
    `core.errors.FsError`, and OSError of the store's disk.
    """

    def __init__(
        self, store: Store, *, clock: Callable[[], int], eviction: Settings | None = None
    ) -> None:
        """`clock` gives ns since the epoch. Makes the root of a new store, ends a crash's orphans."""
        settings = eviction or Settings()
        units = self._units = Units(store, depth=settings.depth, policy=POLICIES[settings.policy])
        inodes = self._inodes = Inodes(store, clock, units)
        metadata = Metadata(inodes)
        names = Names(inodes)
        room = self.room = Room(store, settings.limits)
        files = self._files = Files(inodes, metadata, room)
        directories = Directories(inodes, metadata)
        self.pins = Pins(inodes)
        xattrs = Xattrs(inodes, files, self.pins)

        self.forget, self.forget_name = inodes.forget, inodes.forget_name
        self.count_lookup = inodes.count_lookup

        self.lookup, self.readlink = names.lookup, names.readlink
        self.mknod, self.mkdir, self.symlink = names.mknod, names.mkdir, names.symlink
        self.link, self.unlink, self.rmdir = names.link, names.unlink, names.rmdir
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
        self.evictor = Evictor(
            inodes, room, settings, sync=metadata.sync, place_pending=files.place_pending
        )

    async def write_when_room(self, handle: int, offset: int, data: bytes) -> int:
        """Write as `write` does, where that raised NeedsRoom: wait until there is room.

        Raises NoSpace when none can be made; the file is then as it was.
        """
        size = len(data) + MARGIN_BYTES
        while True:
            self._files.place_pending()
            try:
                return self._files.write_within(handle, offset, data)
            except NoSpace:
                if not await self.evictor.make_room(size):
                    raise
            try:
                return self.write(handle, offset, data)
            except NeedsRoom:
                continue

    async def room_for_file(self) -> None:
        """Wait until one more file may be made. Raises NoSpace when there is no way."""
        room = self.room
        room.files_left -= 1
        while room.files_left < 0:
            with contextlib.suppress(NeedsRoom):
                return room.admit_file()
            if not await self.evictor.make_room(0, files=1):
                raise NoSpace("there are as many files as the limit allows")
        return None

    def unit_of(self, txn: Txn, ino: Ino) -> Ino | None:
        """Return the unit that `ino` is or is in; None above all units."""
        return self._units.of_path(txn, ino)

    @property
    def owners_state(self) -> str:
        """Whether the processes that make folders are known, or why not."""
        return self._units.owners.state

    def flush_uses(self) -> None:
        """Write when units were used, as far as that is only in memory. Raises NoSpace."""
        while self._units.flush():
            pass

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
        self._inodes.doomed.update(left)
        self._inodes.drop_orphans(left)
        self._units.start(self._inodes.clock())

    def drop_unused(self) -> bool:
        """Drop some of the unlinked files that nothing uses; return whether there may be more.

        Large ones wait for this, and those for which there was no room. Raises NoSpace.
        """
        return self._inodes.drop_unused()

    def close(self) -> None:
        """Place all pending bytes, close all handles, drop all unlinked files."""
        self._files.close()
        try:
            self.flush_uses()
            self._inodes.drop_all_orphans()
        except (FsError, OSError):
            log.exception("unlinked files are left to the next start")
