"""Open files: handles, reading, writing, flushing.

State belongs to the inode, not to the handle: with the writeback cache the kernel reads through
write-only handles and writes through any handle of the inode.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
from typing import TYPE_CHECKING, Final

import trio

from dedupfs.core.errors import BadHandle, FileTooBig, FsError, InvalidArgument, NameExists
from dedupfs.core.types import FILE_MAX_BYTES
from dedupfs.store import namespace
from dedupfs.vfs import names
from dedupfs.vfs.attributes import SetAttr
from dedupfs.vfs.inodes import OpenInode
from dedupfs.vfs.metadata import drop_privileges
from dedupfs.vfs.passthrough import Passthrough, is_reading, refuse_change
from dedupfs.vfs.room import MARGIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.core.types import Ino
    from dedupfs.store.writer import Writer
    from dedupfs.vfs.attributes import Attributes, Owner
    from dedupfs.vfs.inodes import Inodes
    from dedupfs.vfs.metadata import Metadata
    from dedupfs.vfs.room import Room

log = logging.getLogger(__name__)

HANDLE_MAX: Final = (1 << 32) - 1  # the adapter keeps a backing id above
_PRIVILEGES: Final = stat.S_ISUID | stat.S_ISGID
_DAY_NS: Final = 24 * 3600 * 10**9


class Files:
    """The operations on open regular files."""

    def __init__(self, inodes: Inodes, metadata: Metadata, room: Room) -> None:
        self._inodes = inodes
        self._room = room
        self._store = inodes.store
        self._metadata = metadata
        self._handles: dict[int, OpenInode] = {}
        self._writing: set[int] = set()
        self._direct: set[int] = set()
        self._next_handle = 1
        # Calls something when the running request is answered; None: there is nobody to do it.
        self._after_reply: Callable[[Callable[[], None]], None] | None = None
        self.passthrough = Passthrough(inodes)

    def open(self, ino: Ino, flags: int, *, caller_uid: int = 0) -> int:
        """Return a handle; empties the file under O_TRUNC.

        Raises Stale when the name of `ino` must be looked up again.
        """
        if not is_reading(flags):
            refuse_change(self._inodes, ino)
        if flags & os.O_TRUNC:
            # Even an empty file gets its times changed (do_truncate of fs/open.c).
            self._metadata.setattr(ino, SetAttr(size=0, caller_uid=caller_uid))
        live = self._inodes.live.get(ino)
        if live is None:
            with self._store.index.read() as txn:
                inode = namespace.get_inode(txn, ino)
            if not stat.S_ISREG(inode.mode):
                raise InvalidArgument(f"inode {ino} is not a regular file")
            live = OpenInode(ino, inode)
            if is_reading(flags):
                self.passthrough.begin(live)
        self._inodes.units.touch(ino, self._inodes.clock())
        return self._add_handle(live, flags)

    def backing_id(self, handle: int) -> int | None:
        """Return the backing file by which the kernel is to read past us, or None."""
        passed = self._find(handle).passed
        return None if passed is None else passed.backing_id

    def create(
        self, parent: Ino, name: bytes, mode: int, owner: Owner, flags: int
    ) -> tuple[Attributes, int]:
        """Make a regular file and open it; counts a lookup. Opens one that exists unless O_EXCL."""
        try:
            with self._inodes.change() as change:
                inode = names.new_inode(change, stat.S_IFREG | stat.S_IMODE(mode), owner)
                made = names.make(change, parent, name, inode)
        except NameExists:
            if flags & os.O_EXCL:
                raise
            return self._open_existing(parent, name, flags)
        self._inodes.count_lookup(made.ino)
        self._inodes.units.grew(parent, change.now_ns, owner.tid)
        return made, self._add_handle(OpenInode(made.ino, made.inode), flags)

    def _open_existing(self, parent: Ino, name: bytes, flags: int) -> tuple[Attributes, int]:
        with self._store.index.read() as txn:
            entry = namespace.find_entry(txn, parent, name)
        assert entry is not None, "it existed a moment ago, with no await between"
        handle = self.open(entry.ino, flags)
        self._inodes.count_lookup(entry.ino)
        return self._inodes.getattr(entry.ino), handle

    def _add_handle(self, live: OpenInode, flags: int) -> int:
        handle = self._next_handle
        while handle in self._handles:
            handle = handle % HANDLE_MAX + 1
        self._next_handle = handle % HANDLE_MAX + 1
        self._handles[handle] = live
        self._inodes.live[live.ino] = live
        live.handles += 1
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._writing.add(handle)
            live.writing_handles += 1
        if flags & os.O_ACCMODE == os.O_WRONLY and not live.inode.mode & _PRIVILEGES:
            self._direct.add(handle)
        return handle

    def is_direct(self, handle: int) -> bool:
        """Return whether the handle's writes may go past the kernel's page cache.

        That is a copy less, and memory that no reader would use: readers get the segment's pages.
        Not so with setuid or setgid bits: for such writes the kernel does not ask us to clear
        them, but says it in a flag of the write that pyfuse3 does not hand on.
        """
        return handle in self._direct

    async def read(self, handle: int, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Return the bytes at `offset..offset + size`, fewer at the end of the file.

        Warm bytes at once; cold ones through a worker thread. Raises Damaged.
        """
        live = self._find(handle)
        inode = live.inode
        size = min(size, inode.size - offset)
        if size <= 0:
            return b""
        # To write a part of a page, the writeback cache first reads it: nobody else does.
        if not (self._inodes.kernel_keeps_times and handle in self._writing):
            self._note_read(live)
        writer = live.writer
        start = stop = offset
        pending = b""
        if writer is not None:
            # Taken now: while a worker reads, pending bytes may be placed where `plan` does not look.
            start, stop = max(offset, writer.start), min(offset + size, writer.stop)
            if start < stop:
                pending = writer.overlay(start, bytes(stop - start))
                if stop - start == size:
                    return pending
        plan = self._store.read(live.ino, offset, size)
        data: bytearray | memoryview | None = plan.try_now()
        if data is None:
            with plan:
                try:
                    data = await trio.to_thread.run_sync(plan.run)
                finally:
                    self._store.note_read(plan)
        if start < stop:
            return bytes(data[: start - offset]) + pending + bytes(data[stop - offset :])
        return data

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Take bytes; they are placed later, at the latest on flush. Return how many were taken.

        Fewer than given only at the size limit, as ext4 does. Raises FileTooBig, NoSpace; then the
        file is as it was.
        """
        live = self._find(handle)
        if not data:
            return 0
        room = self._room
        room.left -= len(data) + MARGIN_BYTES
        if room.left < 0:
            room.admit(len(data) + MARGIN_BYTES)
        return self._write(live, handle, offset, data)

    def write_within(self, handle: int, offset: int, data: bytes) -> int:
        """Write and place bytes if they need no more room than there is: duplicates need none.

        Raises NoSpace; the file is then as it was.
        """
        live = self._find(handle)
        room_bytes = self._room.headroom()
        self._room.expire()  # what is placed here was not taken off `left`
        with self._store.within(room_bytes):
            return self._write(live, handle, offset, data, at_once=True)

    def place_pending(self) -> None:
        """Place what all writers hold in memory: it may need less room than was set aside."""
        for live in list(self._room.writers.values()):
            try:
                self._flush(live)
            except (FsError, OSError) as error:
                log.info("inode %d: its bytes wait in memory: %s", live.ino, error)

    def _write(
        self, live: OpenInode, handle: int, offset: int, data: bytes, *, at_once: bool = False
    ) -> int:
        stop = offset + len(data)
        if stop > FILE_MAX_BYTES:
            if offset >= FILE_MAX_BYTES:
                raise FileTooBig(f"write at {offset}, limit {FILE_MAX_BYTES}")
            data = data[: FILE_MAX_BYTES - offset]
            stop = FILE_MAX_BYTES
        inode = live.inode
        old_size = inode.size
        writer = live.writer or self._begin_writing(live)
        if not self._inodes.kernel_keeps_times:
            inode.mtime_ns = inode.ctime_ns = self._inodes.clock()
        # Before the bytes: if they are placed now, the row must not end before them.
        inode.size = max(old_size, stop)
        live.dirty = True
        if inode.mode & _PRIVILEGES and handle in self._direct:
            # Set since the open; whoever writes may not be who set them.
            drop_privileges(inode)
            self._inodes.forget_attributes(live.ino)
        try:
            if at_once:
                writer.write_now(offset, data)
            else:
                writer.write(offset, data)
        except BaseException:
            inode.size = old_size
            self._resettle(live)
            raise
        return len(data)

    def flush(self, handle: int) -> None:
        """Place all pending bytes of the file; on return a killed process loses nothing of it."""
        self._flush(self._find(handle))

    def flush_inode(self, ino: Ino) -> None:
        """Place all pending bytes of the inode, if it is open."""
        live = self._inodes.live.get(ino)
        if live is not None:
            self._flush(live)

    async def fsync(self, handle: int) -> None:
        """Make the file and all that was done before durable."""
        self._flush(self._find(handle))
        await self._metadata.sync()

    def release(self, handle: int) -> None:
        """Close the handle; the inode goes with its last one if it has no name and no lookup.

        Never raises for the file's bytes: nobody would hear of it, flush was the moment.
        """
        live = self._find(handle)
        del self._handles[handle]
        live.handles -= 1
        if handle in self._writing:
            self._writing.remove(handle)
            self._direct.discard(handle)
            live.writing_handles -= 1
        if live.writing_handles == 0 or live.handles == 0:
            self._end_writing(live)
        if live.handles == 0:
            self._close(live)

    def close(self) -> None:
        """Close all handles that are left."""
        for handle in list(self._handles):
            self.release(handle)

    def _find(self, handle: int) -> OpenInode:
        live = self._handles.get(handle)
        if live is None:
            raise BadHandle(f"file handle {handle}")
        return live

    def _note_read(self, live: OpenInode) -> None:
        """Change atime by the rule of relatime (relatime_need_update of fs/inode.c)."""
        inode = live.inode
        atime = inode.atime_ns
        now = self._inodes.clock()
        if atime <= inode.mtime_ns or atime <= inode.ctime_ns or now - atime >= _DAY_NS:
            inode.atime_ns = now
            live.dirty = True

    def _begin_writing(self, live: OpenInode) -> Writer:
        later = None if self._after_reply is None else functools.partial(self._settle_later, live)
        live.writer = self._store.writer(live.ino, live.on_ingest, later)
        self._room.writers[live.ino] = live
        return live.writer

    def settle_after(self, after_reply: Callable[[Callable[[], None]], None]) -> None:
        """Place full windows when the write that filled them is answered, by way of `after_reply`.

        Meanwhile the caller prepares its next write.
        """
        self._after_reply = after_reply

    def _settle_later(self, live: OpenInode) -> None:
        if self._after_reply is not None:
            self._after_reply(functools.partial(self._settle, live))

    def _settle(self, live: OpenInode) -> None:
        if live.writer is None:
            return  # closed meanwhile
        try:
            live.writer.settle()
        except Exception as error:  # noqa: BLE001 - the next write or flush fails with it
            log.info("inode %d: a window stays pending: %s", live.ino, error)
            self._resettle(live)

    def _flush(self, live: OpenInode) -> None:
        if live.writer is not None:
            try:
                live.writer.flush()
            except BaseException:
                self._resettle(live)
                raise
        if live.dirty:
            with self._inodes.change() as change:
                change.inode(live.ino)
                change.put(live.ino)

    def _resettle(self, live: OpenInode) -> None:
        """After a failed ingest: take from the row what the undone transaction had changed."""
        live.dirty = True
        with self._store.index.read() as txn:
            live.inode.mapped_bytes = namespace.get_inode(txn, live.ino).mapped_bytes

    def _end_writing(self, live: OpenInode) -> None:
        writer = live.writer
        if writer is None:
            return
        if live.handles == 0 and self._inodes.is_last_use(live.ino):
            writer.truncate(0)  # nobody can read it again: do not store it first
        try:
            writer.close()
        except (FsError, OSError) as error:
            log.error("inode %d: bytes written but not flushed are lost: %s", live.ino, error)  # noqa: TRY400 - one line is enough for a full disk
            self._resettle(live)
        live.writer = None
        self._room.writers.pop(live.ino, None)

    def _close(self, live: OpenInode) -> None:
        try:
            self._flush(live)
        except (FsError, OSError) as error:
            log.error("inode %d: its last change of attributes is lost: %s", live.ino, error)  # noqa: TRY400 - as above
        self.passthrough.end(live)
        del self._inodes.live[live.ino]
        if self._inodes.is_last_use(live.ino):
            self._inodes.drop_orphans([live.ino])
