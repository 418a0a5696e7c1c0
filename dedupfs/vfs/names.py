"""Names: looking up, making, linking and removing directory entries."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import (
    InvalidArgument,
    IsADirectory,
    NameExists,
    NameTooLong,
    NoSuchName,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    TooManyLinks,
)
from dedupfs.core.format import Inode
from dedupfs.core.types import NAME_MAX_BYTES, PAGE_BYTES, Ino
from dedupfs.store import namespace
from dedupfs.vfs.attributes import Attributes
from dedupfs.vfs.passthrough import refuse_moved

if TYPE_CHECKING:
    from dedupfs.vfs.attributes import Owner
    from dedupfs.vfs.inodes import Change, Inodes

LINKS_MAX: Final = 65_000  # EXT4_LINK_MAX of fs/ext4/ext4.h
TARGET_MAX_BYTES: Final = 4095  # PATH_MAX without its NUL


def check_name(name: bytes) -> None:
    """Raise NameTooLong for a name that no directory can hold."""
    if len(name) > NAME_MAX_BYTES:
        raise NameTooLong(f"{len(name)} bytes, limit {NAME_MAX_BYTES}")


class Names:
    """The operations on names, but for rename."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes

    def lookup(self, parent: Ino, name: bytes) -> Attributes:
        """Return the inode called `name`; counts a lookup.

        Raises NoSuchName, NameTooLong.
        """
        check_name(name)
        with self._inodes.store.index.read() as txn:
            entry = namespace.find_entry(txn, parent, name)
            if entry is not None:
                ino = entry.ino
            elif name == b".":  # asked for an inode the kernel knows by number (NFS export)
                ino = parent
            elif name == b"..":
                ino = Ino(self._inodes.inode(txn, parent).parent)
            else:
                raise NoSuchName(f"{name!r} in {parent}")
            found = self._inodes.attributes(txn, ino)
        self._inodes.count_lookup(ino)
        return found

    def readlink(self, ino: Ino) -> bytes:
        """Return a symlink's target; raise InvalidArgument for anything else."""
        with self._inodes.store.index.read() as txn:
            inode = self._inodes.inode(txn, ino)
        if not stat.S_ISLNK(inode.mode):
            raise InvalidArgument(f"inode {ino} is not a symlink")
        return inode.target

    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, owner: Owner) -> Attributes:
        """Make a file of any type but directory and symlink; counts a lookup."""
        with self._inodes.change() as change:
            made = make(change, parent, name, new_inode(change, mode, owner, rdev=rdev))
        self._inodes.count_lookup(made.ino)
        return made

    def mkdir(self, parent: Ino, name: bytes, mode: int, owner: Owner) -> Attributes:
        """Make a directory; counts a lookup."""
        with self._inodes.change() as change:
            inode = new_inode(change, stat.S_IFDIR | stat.S_IMODE(mode), owner)
            inode.nlink = 2
            inode.size = PAGE_BYTES
            inode.parent = parent
            change.caller_tid = owner.tid
            made = make(change, parent, name, inode)
            change.inode(parent).nlink += 1
        self._inodes.count_lookup(made.ino)
        return made

    def symlink(self, parent: Ino, name: bytes, target: bytes, owner: Owner) -> Attributes:
        """Make a symlink; counts a lookup. Raises NameTooLong for the target, too."""
        if len(target) > TARGET_MAX_BYTES:
            raise NameTooLong(f"target of {len(target)} bytes, limit {TARGET_MAX_BYTES}")
        with self._inodes.change() as change:
            inode = new_inode(change, stat.S_IFLNK | 0o777, owner)
            inode.target = target
            inode.size = len(target)
            made = make(change, parent, name, inode)
        self._inodes.count_lookup(made.ino)
        return made

    def link(self, ino: Ino, new_parent: Ino, new_name: bytes) -> Attributes:
        """Give `ino` one more name; counts a lookup.

        Raises NotPermitted for a directory, TooManyLinks, NoSuchName for an inode without names,
        Stale for one whose names lead to a copy now.
        """
        check_name(new_name)
        refuse_moved(self._inodes, ino)
        with self._inodes.change() as change:
            inode = change.inode(ino)
            if stat.S_ISDIR(inode.mode):
                raise NotPermitted("a directory has one name")
            if inode.nlink == 0:
                raise NoSuchName(f"inode {ino} is removed")
            if inode.nlink >= LINKS_MAX:
                raise TooManyLinks(f"{inode.nlink} links, limit {LINKS_MAX}")
            enter(change, new_parent, new_name, ino)
            change.renamed(new_parent, ino)
            inode.nlink += 1
            change.put_with_ctime(ino)
        self._inodes.count_lookup(ino)
        return self._inodes.getattr(ino)

    def unlink(self, parent: Ino, name: bytes) -> None:
        """Remove a name that is not a directory's."""
        check_name(name)
        with self._inodes.change() as change:
            change.directory(parent)
            entry = namespace.find_entry(change.txn, parent, name)
            if entry is None:
                raise NoSuchName(f"{name!r} in {parent}")
            if stat.S_ISDIR(change.inode(entry.ino).mode):
                raise IsADirectory(f"{name!r} in {parent}")
            namespace.remove_entry(change.txn, parent, entry)
            change.renamed(parent, entry.ino)
            change.put_with_mtime(parent)
            change.lose_name(entry.ino)

    def rmdir(self, parent: Ino, name: bytes) -> None:
        """Remove an empty directory."""
        check_name(name)
        with self._inodes.change() as change:
            directory = change.directory(parent)
            entry = namespace.find_entry(change.txn, parent, name)
            if entry is None:
                raise NoSuchName(f"{name!r} in {parent}")
            if not stat.S_ISDIR(change.inode(entry.ino).mode):
                raise NotADirectory(f"{name!r} in {parent}")
            if not namespace.is_empty(change.txn, entry.ino):
                raise NotEmpty(f"{name!r} in {parent}")
            namespace.remove_entry(change.txn, parent, entry)
            change.renamed(parent, entry.ino)
            directory.nlink -= 1
            change.put_with_mtime(parent)
            change.lose_name(entry.ino)


def new_inode(change: Change, mode: int, owner: Owner, *, rdev: int = 0) -> Inode:
    """Return an inode with one name, made now."""
    now = change.now_ns
    return Inode(
        mode=mode, uid=owner.uid, gid=owner.gid, nlink=1, rdev=rdev, size=0, mapped_bytes=0,
        atime_ns=now, mtime_ns=now, ctime_ns=now, parent=0,
    )  # fmt: skip


def make(change: Change, parent: Ino, name: bytes, inode: Inode) -> Attributes:
    """Store a new inode and its name. Raises NameExists, NameTooLong.

    A setgid directory hands its group down, and to directories the bit, too (inode_init_owner of
    fs/inode.c).
    """
    check_name(name)
    directory = change.directory(parent)
    if directory.mode & stat.S_ISGID:
        inode.gid = directory.gid
        if stat.S_ISDIR(inode.mode):
            inode.mode |= stat.S_ISGID
    ino = namespace.add_inode(change.txn, inode)
    enter(change, parent, name, ino)
    change.made(parent, name, ino)
    return Attributes(ino, inode, 0)


def enter(change: Change, parent: Ino, name: bytes, ino: Ino) -> None:
    """Add a name to a directory. Raises NameExists."""
    change.directory(parent)
    if namespace.find_entry(change.txn, parent, name) is not None:
        raise NameExists(f"{name!r} in {parent}")
    namespace.add_entry(change.txn, parent, name, ino)
    change.put_with_mtime(parent)
