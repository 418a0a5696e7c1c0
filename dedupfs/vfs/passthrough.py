"""Passthrough: files that readers read past this process, and copy-up when somebody writes them.

The kernel's rules (fs/fuse/iomode.c): all opens of an inode at a time are passthrough, of one
backing file, or none is. So the mode belongs to the inode and is chosen by the first open. A writer
that meets passthrough readers gets a new inode under the old names, and ESTALE: the kernel looks
the name up again and opens the new one. The readers keep the version they opened, as on overlayfs.
"""

from __future__ import annotations

import copy
import logging
import os
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import trio

from dedupfs.core.errors import FsError, Stale
from dedupfs.store import namespace

if TYPE_CHECKING:
    from dedupfs.core.types import Ino
    from dedupfs.store.backing import Backing
    from dedupfs.vfs.inodes import Inodes, OpenInode

log = logging.getLogger(__name__)

# The kernel comes again but once after ESTALE: meanwhile no reader may make the copy passthrough.
_COMES_WITHIN_NS: Final = 5 * 10**9
# An open waits so long for a file to be put together: its dirty pages are written back first.
_MAKE_MAX_S: Final = 10.0


class BackingFiles(Protocol):
    """The kernel's table of backing files. Both raise OSError."""

    def backing_open(self, fd: int, /) -> int:
        """Register a file; return its id."""

    def backing_close(self, backing_id: int, /) -> None:
        """Let it go."""


class Passed(NamedTuple):
    """An inode whose opens are passthrough."""

    backing_id: int
    backing: Backing


class Passthrough:
    """Chooses the mode of an inode at its first open."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes
        self._kernel: BackingFiles | None = None
        self._making: dict[Ino, trio.Event] = {}
        self.failure = ""  # why the last backing file was refused

    def enable(self, kernel: BackingFiles) -> None:
        """Use it from now on."""
        self._kernel = kernel

    @property
    def why_not_prepared(self) -> str:
        """Why files of several extents take the ordinary path; "" when they need not."""
        return self._inodes.store.reflinks.why_not

    @property
    def is_enabled(self) -> bool:
        """Whether the kernel in front takes backing files."""
        return self._kernel is not None

    def wants_preparing(self, ino: Ino, flags: int) -> bool:
        """Tell whether `prepare` is to be called before this open."""
        if self._kernel is None or self.why_not_prepared or not is_reading(flags):
            return False
        return ino not in self._inodes.live and not self._awaits_writer(ino)

    async def prepare(self, ino: Ino) -> None:
        """Before the first open of `ino` for reading: make what it can be read from, past us.

        Whatever keeps it from being made, the file takes the ordinary path.
        """
        if ino in self._making:
            await self._making[ino].wait()
            return
        store = self._inodes.store
        try:
            plan = store.plan_backing(ino, self._inodes.getattr(ino).inode.size)
        except (FsError, OSError):
            return
        if plan is None:
            return
        self._making[ino] = trio.Event()
        made = None
        try:
            with trio.move_on_after(_MAKE_MAX_S):
                made = await trio.to_thread.run_sync(plan.run, abandon_on_cancel=True)
        except (FsError, OSError) as error:
            log.info("inode %d takes the ordinary path: %s", ino, error)
        finally:
            if made is None:
                plan.is_stale = True
            store.reflinks.keep(plan, made)
            self._making.pop(ino).set()

    def begin(self, live: OpenInode) -> None:
        """Let all opens of `live`, this first one for reading, be passthrough if they can."""
        if self._kernel is None or not live.inode.size or self._awaits_writer(live.ino):
            return
        try:
            backing = self._inodes.store.backing(live.ino, live.inode.size)
        except (FsError, OSError):
            return  # an ordinary read says what is wrong, or needs no room on a full disk
        if backing is None:
            return
        try:
            live.passed = Passed(self._kernel.backing_open(backing.fd), backing)
        except OSError as error:
            backing.close()
            if not self.failure:
                log.warning("passthrough: %s: such files take the ordinary path", error)
            self.failure = str(error)

    def _awaits_writer(self, ino: Ino) -> bool:
        """Tell whether a writer may just be coming: it would be sent away a second time."""
        until = self._inodes.awaiting_writer.get(ino)
        return until is not None and self._inodes.clock() < until

    def end(self, live: OpenInode) -> None:
        """After the last close of `live`: the next open chooses anew."""
        passed, live.passed = live.passed, None
        if passed is None:
            return
        passed.backing.close()
        if self._kernel is not None:
            try:
                self._kernel.backing_close(passed.backing_id)
            except OSError as error:
                log.info("backing file %d: %s", passed.backing_id, error)


def is_reading(flags: int) -> bool:
    """Return whether an open with these flags leaves the file as it is."""
    return flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_TRUNC


def refuse_change(inodes: Inodes, ino: Ino) -> None:
    """Before content of `ino` changes: copy it up and raise Stale if readers have it past us."""
    refuse_moved(inodes, ino)
    live = inodes.live.get(ino)
    if live is None or live.passed is None:
        return
    with inodes.change() as change:
        old = change.inode(ino)
        names = namespace.names_of(change.txn, ino)
        if names:
            new = namespace.add_inode(change.txn, copy.copy(old))
            inodes.store.clone(change.txn, ino, new)
            for key in namespace.list_xattrs(change.txn, ino):
                value = namespace.get_xattr(change.txn, ino, key)
                namespace.put_xattr(change.txn, new, key, value or b"")
            for parent, entry in names:
                namespace.point_entry(change.txn, parent, entry, new)
            inodes.units.replaced(change, ino, new)
            old.nlink = 1
            change.lose_name(ino)
            _await_writer(inodes, new, change.now_ns)
    if names:
        inodes.moved.add(ino)
    for parent, entry in names:
        if len(names) > 1:
            # The kernel looks up anew only the name it came by.
            inodes.forget_name(parent, entry.name)
        else:
            inodes.listings.forget(parent)
    raise Stale(f"inode {ino} is read past us: its names have moved to a new inode")


def refuse_moved(inodes: Inodes, ino: Ino) -> None:
    """Raise Stale for an inode whose names lead to its copy: a change of it would be lost."""
    if ino in inodes.moved:
        raise Stale(f"inode {ino} was copied up: its names lead to another")


def _await_writer(inodes: Inodes, ino: Ino, now_ns: int) -> None:
    awaiting = inodes.awaiting_writer
    for other in [other for other, until in awaiting.items() if until <= now_ns]:
        del awaiting[other]
    awaiting[ino] = now_ns + _COMES_WITHIN_NS
