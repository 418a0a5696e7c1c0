"""Live inodes: lookup counts, open inodes, and index transactions that change inodes.

An inode stays as long as it has a name, a lookup by the kernel, or an open handle. While it is
open its attributes live here, ahead of its row: Change keeps the two together.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import stat
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import NoSuchName, NotADirectory
from dedupfs.store import namespace
from dedupfs.vfs.attributes import Attributes
from dedupfs.vfs.listings import Listings
from dedupfs.vfs.lookups import Lookups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dedupfs.core.format import Inode
    from dedupfs.core.types import Ino
    from dedupfs.store.store import Store
    from dedupfs.store.txn import Txn
    from dedupfs.store.writer import Writer
    from dedupfs.vfs.passthrough import Passed
    from dedupfs.vfs.units import Units

# Together about 10 ms: nobody waits longer for an evicted folder to be dropped.
_ENTRIES_AT_ONCE: Final = 200
_CHANGES_AT_ONCE: Final = 1000


class OpenInode:
    """A regular file with at least one handle."""

    __slots__ = ("dirty", "handles", "ino", "inode", "passed", "writer", "writing_handles")

    def __init__(self, ino: Ino, inode: Inode) -> None:
        self.ino = ino
        self.inode = inode
        self.handles = 0
        self.writing_handles = 0
        self.writer: Writer | None = None
        self.passed: Passed | None = None  # read past us
        self.dirty = False  # `inode` is ahead of its row

    def on_ingest(self, txn: Txn, mapped_delta: int) -> None:
        """Put the row in the transaction that places data: size, times and data are one."""
        self.inode.mapped_bytes += mapped_delta
        namespace.put_inode(txn, self.ino, self.inode)
        self.dirty = False

    @property
    def pending_bytes(self) -> int:
        """Bytes written and not placed yet."""
        return 0 if self.writer is None else self.writer.stop - self.writer.start


class Change:
    """One write transaction over inodes. What `inode` returned and `put` named is stored."""

    __slots__ = (
        "_changed", "_inodes", "_renamed", "_table", "caller_tid", "doomed", "gone_containers",
        "moves_containers", "new_containers", "now_ns", "orphaned", "txn",
    )  # fmt: skip

    def __init__(self, table: Inodes, txn: Txn, now_ns: int) -> None:
        self.txn = txn
        self.now_ns = now_ns
        self.orphaned: list[Ino] = []
        self.doomed: list[Ino] = []  # evicted: nothing but an open file keeps them
        self.caller_tid = 0
        self.new_containers: list[tuple[Ino, int]] = []
        self.gone_containers: list[Ino] = []
        self.moves_containers = False
        self._renamed: set[Ino] = set()
        self._table = table
        self._inodes: dict[Ino, Inode] = {}
        self._changed: set[Ino] = set()

    def inode(self, ino: Ino) -> Inode:
        """Return the inode, the same object each time; raise NoSuchName when it is gone."""
        found = self._inodes.get(ino)
        if found is None:
            live = self._table.live.get(ino)
            # A copy: an undone transaction must not show in the live inode.
            found = copy.copy(live.inode) if live else namespace.get_inode(self.txn, ino)
            self._inodes[ino] = found
        return found

    def directory(self, ino: Ino) -> Inode:
        """Return the inode of a directory that can take names: one not removed."""
        found = self.inode(ino)
        if not stat.S_ISDIR(found.mode):
            raise NotADirectory(f"inode {ino}")
        if found.nlink == 0:
            raise NoSuchName(f"directory {ino} is removed")
        return found

    def find_inode(self, ino: Ino) -> Inode | None:
        """Return the inode if it is still there."""
        if namespace.find_inode(self.txn, ino) is None:
            return None
        return self.inode(ino)

    def made(self, parent: Ino, name: bytes, ino: Ino) -> None:
        """Note a new inode with its first name."""
        units = self._table.units
        if parent in units.containers:
            units.made(self, parent, name, ino)

    def renamed(self, parent: Ino, ino: Ino) -> None:
        """Note that `ino` got or lost a name in directory `parent`."""
        if parent in self._table.units.containers:
            self._renamed.add(ino)

    def put(self, ino: Ino) -> None:
        """Store the inode at the end of the transaction."""
        self._changed.add(ino)

    def put_with_ctime(self, ino: Ino) -> None:
        """Store the inode, its status changed now."""
        self.inode(ino).ctime_ns = self.now_ns
        self._changed.add(ino)

    def put_with_mtime(self, ino: Ino) -> None:
        """Store the inode, its content changed now: of a directory, its names."""
        inode = self.inode(ino)
        inode.mtime_ns = inode.ctime_ns = self.now_ns
        self._changed.add(ino)

    def lose_name(self, ino: Ino) -> None:
        """Take a name's link off the inode; without one it is orphaned or dropped."""
        inode = self.inode(ino)
        inode.nlink = 0 if stat.S_ISDIR(inode.mode) else inode.nlink - 1
        self.put_with_ctime(ino)
        if inode.nlink > 0:
            return
        if self._table.is_used(ino) or self._table.store.is_long_to_drop(self.txn, ino):
            namespace.add_orphan(self.txn, ino)
            self.orphaned.append(ino)
        else:
            self.drop(ino)

    def evict(self, ino: Ino) -> None:
        """Take a name's link off: without one, only an open file keeps the inode.

        The kernel may still know it by number, and is told there is no such inode. What takes long
        to drop is left to `Inodes.drop_doomed`.
        """
        inode = self.inode(ino)
        is_directory = stat.S_ISDIR(inode.mode)
        inode.nlink = 0 if is_directory else inode.nlink - 1
        self.put_with_ctime(ino)
        if inode.nlink > 0:
            return
        if ino in self._table.live:
            namespace.add_orphan(self.txn, ino)
            self.orphaned.append(ino)
        elif self._table.is_long_to_drop(self.txn, ino, inode):
            namespace.add_orphan(self.txn, ino)
            self.doomed.append(ino)
        else:
            self.drop(ino)

    def drop(self, ino: Ino) -> None:
        """Remove the inode and its data."""
        inode = self.inode(ino)
        self._table.store.drop(self.txn, ino)
        namespace.remove_inode(self.txn, ino, inode)
        self._changed.discard(ino)

    def write_rows(self) -> None:
        """Put the rows of all changed inodes, and of units."""
        if self._renamed:
            self._table.units.settle(self, self._renamed)
        for ino in self._changed:
            namespace.put_inode(self.txn, ino, self._inodes[ino])

    def apply(self) -> None:
        """Let the live inodes follow: the transaction is committed."""
        for ino in self._changed:
            live = self._table.live.get(ino)
            if live is not None:
                live.inode = self._inodes[ino]
                live.dirty = False
        table = self._table
        if self.orphaned:
            table.orphans.update(self.orphaned)
        if self.doomed:
            table.orphans.update(self.doomed)
            table.doomed.update(self.doomed)
        if self.new_containers or self.gone_containers or self.moves_containers:
            table.units.follow(self)


class Inodes:
    """The table of live inodes."""

    def __init__(self, store: Store, clock: Callable[[], int], units: Units) -> None:
        self.store = store
        self.clock = clock
        self.units = units
        self.live: dict[Ino, OpenInode] = {}
        self.orphans: set[Ino] = set()  # without a name, used until now
        self.doomed: set[Ino] = set()  # of these, what goes whether or not the kernel knows it
        self._lookups = Lookups()
        # Orphans by a copy-up: who comes by a name that the kernel remembers is to look it up anew.
        self.moved: set[Ino] = set()
        # Copies that a writer was sent to, and until when (ns) it may be on its way.
        self.awaiting_writer: dict[Ino, int] = {}
        # With the writeback cache the kernel sends mtime and ctime itself (fuse_flush_times): a
        # WRITE comes later than the write(2) it is of.
        self.kernel_keeps_times = False
        # Tells the kernel that a name it remembers means something else now.
        self.forget_entry: Callable[[Ino, bytes], None] = lambda _parent, _name: None
        self.listings = Listings()
        # Tells it that the attributes it remembers are others now.
        self.forget_attributes: Callable[[Ino], None] = lambda _ino: None

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """One write transaction; live inodes take part in it."""
        with self.store.index.write() as txn:
            change = Change(self, txn, self.clock())
            yield change
            change.write_rows()
        change.apply()

    def inode(self, txn: Txn, ino: Ino) -> Inode:
        """Return the inode to look at; raise NoSuchName when it is gone."""
        live = self.live.get(ino)
        return live.inode if live is not None else namespace.get_inode(txn, ino)

    def attributes(self, txn: Txn, ino: Ino) -> Attributes:
        """Return what `stat` shows; raise NoSuchName when the inode is gone."""
        live = self.live.get(ino)
        if live is None:
            inode = namespace.get_inode(txn, ino)
            return Attributes(ino, inode, inode.mapped_bytes)
        inode = live.inode
        return Attributes(ino, inode, inode.mapped_bytes + live.pending_bytes)

    def getattr(self, ino: Ino) -> Attributes:
        """Return what `stat` shows; raise NoSuchName when the inode is gone."""
        with self.store.index.read() as txn:
            return self.attributes(txn, ino)

    def count_lookup(self, ino: Ino) -> None:
        """Note that the kernel was told of `ino`, until it forgets as often."""
        self._lookups.add(ino)

    def forget_name(self, parent: Ino, name: bytes) -> None:
        """Tell the kernel that a name it did not change means something else now, or nothing."""
        self.forget_entry(parent, name)
        self.listings.forget(parent)

    def forget(self, counts: Iterable[tuple[Ino, int]]) -> None:
        """Take back lookups; inodes that nothing uses and no name leads to are dropped."""
        unused = []
        for ino, count in counts:
            if self._lookups.take(ino, count) and ino in self.orphans and ino not in self.live:
                unused.append(ino)
        self.drop_orphans(unused)

    def drop_unused(self) -> bool:
        """Drop some of the unlinked inodes that nothing uses; return whether there are more.

        They wait for this when they have many extents, or there was no room to drop them at once.
        Raises NoSpace.
        """
        if self.drop_doomed():
            return True
        unused = next((ino for ino in self.orphans if not self.is_used(ino)), None)
        if unused is not None:
            self._drop_some(unused)
        return unused is not None

    def drop_doomed(self) -> bool:
        """Drop some of what was evicted, in about 10 ms; return whether there was something."""
        ino = next((ino for ino in self.doomed if ino not in self.live), None)
        if ino is not None:
            self._drop_some(ino)
        return ino is not None

    def drop_all_orphans(self) -> None:
        """Drop all unlinked inodes, whatever refers to them. Raises NoSpace."""
        while self.orphans:
            self._drop_some(next(iter(self.orphans)))

    def _drop_some(self, ino: Ino) -> None:
        with self.change() as change:
            if self._empty_some(change, ino):
                return
            delta = self.store.drop_some(change.txn, ino)
            if delta:
                change.inode(ino).mapped_bytes += delta
                change.put(ino)
            else:
                change.drop(ino)
        if not delta:
            self.orphans.discard(ino)
            self.moved.discard(ino)
            self.doomed.discard(ino)

    def _empty_some(self, change: Change, folder: Ino) -> bool:
        """Evict some entries of a directory without a name; return whether there were any."""
        rows = namespace.entries(change.txn, folder, start=0, stop=(1 << 64) - 1)
        found = list(itertools.islice(rows, _ENTRIES_AT_ONCE))
        for entry in found:
            namespace.remove_entry(change.txn, folder, entry)
            change.evict(entry.ino)
            if len(change.txn.changes) > _CHANGES_AT_ONCE:
                break
        return bool(found)

    def is_long_to_drop(self, txn: Txn, ino: Ino, inode: Inode) -> bool:
        """Tell whether dropping the inode would hold up others."""
        if stat.S_ISDIR(inode.mode):
            return not namespace.is_empty(txn, ino)
        return self.store.is_long_to_drop(txn, ino)

    def is_used(self, ino: Ino) -> bool:
        """Return whether the kernel or a handle still refers to `ino`."""
        return ino in self._lookups or ino in self.live

    def is_last_use(self, ino: Ino) -> bool:
        """Return whether nothing will lead to `ino` once its last handle is closed."""
        return ino in self.orphans and ino not in self._lookups

    def drop_orphans(self, inos: Iterable[Ino]) -> None:
        """Remove inodes that have no name, and their data; large ones wait for `drop_unused`."""
        dead = list(inos)
        if not dead:
            return
        with self.change() as change:
            dead = [
                ino for ino in dead if not self.is_long_to_drop(change.txn, ino, change.inode(ino))
            ]
            for ino in dead:
                change.drop(ino)
        self.orphans.difference_update(dead)
        self.moved.difference_update(dead)
        self.doomed.difference_update(dead)
