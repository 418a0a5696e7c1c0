"""The pyfuse3 handlers: each translates and nothing else.

What escapes a handler ends the mount, unless it is FUSEError: `_request` lets nothing else out.
`poll` and `access` stay pyfuse3's own, which answer ENOSYS: the kernel then does both itself.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar, cast

import pyfuse3

from dedupfs.core.errors import InvalidArgument, NeedsRoom, NoSuchName
from dedupfs.core.types import Ino
from dedupfs.fuse.attributes import absent, changes, entry, statvfs
from dedupfs.fuse.errnos import errno_of
from dedupfs.fuse.replies import HANDLE_MASK, mark, mark_listing, unmark_listing, written
from dedupfs.vfs.attributes import Owner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from pyfuse3 import EntryAttributes, FileInfo, RequestContext, StatvfsData

    from dedupfs.vfs.vfs import Vfs

P = ParamSpec("P")
T = TypeVar("T")

_RENAME_FLAGS: Final = pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE


def _request(
    handler: Callable[Concatenate[Handlers, P], Awaitable[T]],
) -> Callable[Concatenate[Handlers, P], Coroutine[object, object, T]]:
    """Count the request, and turn what it raises into an errno."""
    kind = handler.__name__

    async def answer(self: Handlers, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.requests[kind] += 1
        try:
            return await handler(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - nothing else may reach pyfuse3
            raise pyfuse3.FUSEError(errno_of(error, kind)) from None

    return answer


class Handlers:
    """The handlers; `requests` counts them by kind, `read_bytes` what was answered to reads."""

    def __init__(self, vfs: Vfs, *, writeback: bool) -> None:
        self.requests: Counter[str] = Counter()
        self.read_bytes = 0
        self._writeback = writeback
        self._vfs = vfs

    @_request
    async def lookup(self, parent_inode: int, name: bytes, _ctx: RequestContext) -> EntryAttributes:
        """Find a name; "no such name" is an answer that the kernel remembers."""
        try:
            return entry(self._vfs.lookup(Ino(parent_inode), name))
        except NoSuchName:
            return absent()

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Take back lookups. The kernel wants no answer, and no exception may come out."""
        self.requests["forget"] += 1
        try:
            self._vfs.forget(cast("Sequence[tuple[Ino, int]]", inode_list))
        except Exception as error:  # noqa: BLE001 - see above
            errno_of(error, "forget")

    @_request
    async def getattr(self, inode: int, _ctx: RequestContext) -> EntryAttributes:
        """Answer stat."""
        return entry(self._vfs.getattr(Ino(inode)))

    @_request
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        _fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        """Answer chmod, chown, truncate, utimens."""
        wanted = changes(attr, fields, caller_uid=ctx.uid)
        return entry(self._vfs.setattr(Ino(inode), wanted))

    @_request
    async def readlink(self, inode: int, _ctx: RequestContext) -> bytes:
        """Answer readlink."""
        return self._vfs.readlink(Ino(inode))

    @_request
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Answer mknod."""
        await self._vfs.room_for_file()
        owner = Owner(ctx.uid, ctx.gid)
        return entry(self._vfs.mknod(Ino(parent_inode), name, mode, rdev, owner))

    @_request
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Answer mkdir."""
        owner = Owner(ctx.uid, ctx.gid, ctx.pid)
        return entry(self._vfs.mkdir(Ino(parent_inode), name, mode, owner))

    @_request
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Answer symlink."""
        await self._vfs.room_for_file()
        return entry(self._vfs.symlink(Ino(parent_inode), name, target, Owner(ctx.uid, ctx.gid)))

    @_request
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, _ctx: RequestContext
    ) -> EntryAttributes:
        """Answer link; the kernel asks for the attributes when it next wants them.

        It takes those of this answer even if the file has grown meanwhile (create_new_entry of
        fs/fuse/dir.c passes no version to compare): kept for long, the new end would be hidden.
        """
        made = entry(self._vfs.link(Ino(inode), Ino(new_parent_inode), new_name))
        made.attr_timeout = 0
        return made

    @_request
    async def unlink(self, parent_inode: int, name: bytes, _ctx: RequestContext) -> None:
        """Answer unlink."""
        self._vfs.unlink(Ino(parent_inode), name)

    @_request
    async def rmdir(self, parent_inode: int, name: bytes, _ctx: RequestContext) -> None:
        """Answer rmdir."""
        self._vfs.rmdir(Ino(parent_inode), name)

    @_request
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        _ctx: RequestContext,
    ) -> None:
        """Answer rename and renameat2."""
        if flags & ~_RENAME_FLAGS:
            raise InvalidArgument(f"rename flags {flags:#x}")
        no_replace, exchange = flags & pyfuse3.RENAME_NOREPLACE, flags & pyfuse3.RENAME_EXCHANGE
        names = (Ino(parent_inode_old), name_old, Ino(parent_inode_new), name_new)
        self._vfs.rename(*names, no_replace=bool(no_replace), exchange=bool(exchange))

    @_request
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Answer open; the kernel keeps what it has cached of the file."""
        if self._vfs.wants_preparing(Ino(inode), flags):
            await self._vfs.prepare(Ino(inode))
        handle = self._vfs.open(Ino(inode), flags, caller_uid=ctx.uid)
        return self._file_info(handle)

    @_request
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Answer open with O_CREAT."""
        await self._vfs.room_for_file()
        owner = Owner(ctx.uid, ctx.gid, ctx.pid)
        made, handle = self._vfs.create(Ino(parent_inode), name, mode, owner, flags)
        return self._file_info(handle), entry(made)

    def _file_info(self, handle: int) -> FileInfo:
        """Return how the kernel is to treat an open file; it keeps what it has cached of it."""
        marked = mark(handle, self._vfs.backing_id(handle))
        is_direct = not self._writeback and self._vfs.is_direct(handle)
        return pyfuse3.FileInfo(fh=marked, keep_cache=True, direct_io=is_direct)

    @_request
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Answer read. pyfuse3 takes any buffer; its signature knows only bytes."""
        data = cast("bytes", await self._vfs.read(fh & HANDLE_MASK, off, size))
        self.read_bytes += len(data)
        return data

    @_request
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Answer write."""
        data = written(buf)
        try:
            return self._vfs.write(fh & HANDLE_MASK, off, data)
        except NeedsRoom:
            return await self._vfs.write_when_room(fh & HANDLE_MASK, off, data)

    @_request
    async def flush(self, fh: int) -> None:
        """Answer close of one descriptor."""
        self._vfs.flush(fh & HANDLE_MASK)

    @_request
    async def release(self, fh: int) -> None:
        """Answer close of the last descriptor."""
        self._vfs.release(fh & HANDLE_MASK)

    @_request
    async def fsync(self, fh: int, _datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        """Answer fsync and fdatasync."""
        await self._vfs.fsync(fh & HANDLE_MASK)

    @_request
    async def opendir(self, inode: int, _ctx: RequestContext) -> int:
        """Answer opendir; the kernel may keep the listing where that stays right."""
        handle = self._vfs.opendir(Ino(inode))
        return mark_listing(handle) if self._vfs.may_keep_listing(handle) else handle

    @_request
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Answer readdir: as many entries, with their attributes, as the kernel's buffer takes."""
        for name, attributes, cookie, is_lookup in self._vfs.readdir(unmark_listing(fh), start_id):
            if not pyfuse3.readdir_reply(token, name, entry(attributes), cookie):
                break
            if is_lookup:
                self._vfs.count_lookup(attributes.ino)

    @_request
    async def releasedir(self, fh: int) -> None:
        """Answer closedir."""
        self._vfs.releasedir(unmark_listing(fh))

    @_request
    async def fsyncdir(self, fh: int, _datasync: bool) -> None:  # noqa: FBT001 - as fsync
        """Answer fsync of a directory."""
        await self._vfs.fsyncdir(unmark_listing(fh))

    @_request
    async def statfs(self, _ctx: RequestContext) -> StatvfsData:
        """Answer statfs."""
        return statvfs(self._vfs.statfs())

    @_request
    async def getxattr(self, inode: int, name: bytes, _ctx: RequestContext) -> bytes:
        """Answer getxattr."""
        return self._vfs.getxattr(Ino(inode), name)

    @_request
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """Answer listxattr."""
        return self._vfs.listxattr(Ino(inode), privileged=ctx.uid == 0)

    @_request
    async def setxattr(self, inode: int, name: bytes, value: bytes, _ctx: RequestContext) -> None:
        """Answer setxattr; XATTR_CREATE and XATTR_REPLACE are pyfuse3's work."""
        self._vfs.setxattr(Ino(inode), name, value)

    @_request
    async def removexattr(self, inode: int, name: bytes, _ctx: RequestContext) -> None:
        """Answer removexattr."""
        self._vfs.removexattr(Ino(inode), name)


class Operations(Handlers, pyfuse3.Operations):
    """The handlers of one mount, with pyfuse3's own behind them."""

    def __init__(self, vfs: Vfs, *, writeback: bool) -> None:
        super().__init__(vfs, writeback=writeback)
        self.enable_writeback_cache = writeback
