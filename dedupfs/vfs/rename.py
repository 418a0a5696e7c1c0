"""Rename: move, replace and exchange names, as rename(2) and renameat2(2) tell."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from dedupfs.core.errors import (
    InvalidArgument,
    IsADirectory,
    NameExists,
    NoSuchName,
    NotADirectory,
    NotEmpty,
)
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import namespace
from dedupfs.vfs.names import check_name

if TYPE_CHECKING:
    from dedupfs.store.namespace import Dirent
    from dedupfs.vfs.inodes import Change, Inodes


class Renames:
    """The rename operation."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes

    def rename(
        self,
        parent: Ino,
        name: bytes,
        new_parent: Ino,
        new_name: bytes,
        *,
        no_replace: bool = False,
        exchange: bool = False,
    ) -> None:
        """Give what is called `name` the name `new_name`; what had it loses it.

        Raises NameExists under `no_replace`, NoSuchName when `exchange` finds no second name.
        """
        check_name(name)
        check_name(new_name)
        if no_replace and exchange:
            raise InvalidArgument("RENAME_NOREPLACE with RENAME_EXCHANGE")
        with self._inodes.change() as change:
            change.directory(parent)
            change.directory(new_parent)
            source = namespace.find_entry(change.txn, parent, name)
            target = namespace.find_entry(change.txn, new_parent, new_name)
            if source is None or (exchange and target is None):
                raise NoSuchName(f"{name!r} in {parent}, {new_name!r} in {new_parent}")
            if target is not None and no_replace:
                raise NameExists(f"{new_name!r} in {new_parent}")
            if target is not None and target.ino == source.ino:
                return
            _check_no_loop(change, source.ino, parent, new_parent)
            if target is None:
                _move(change, parent, source, new_parent, new_name)
            elif exchange:
                _check_no_loop(change, target.ino, new_parent, parent)
                _exchange(change, parent, source, new_parent, target)
            else:
                _replace(change, parent, source, new_parent, target)
            change.put_with_mtime(parent)
            change.put_with_mtime(new_parent)
            change.put_with_ctime(source.ino)
            _note(change, parent, source, new_parent, target)
            moved = [source.ino, *([target.ino] if target is not None and exchange else [])]
            folders = [ino for ino in moved if parent != new_parent and _is_dir(change, ino)]
        for ino in folders:
            self._inodes.listings.forget(ino)  # the kernel does not know that `..` is in it


def _note(
    change: Change, parent: Ino, source: Dirent, new_parent: Ino, target: Dirent | None
) -> None:
    """Let the units follow. Within a directory, only what was replaced is something else now."""
    for entry in filter(None, (source if parent != new_parent else None, target)):
        change.renamed(parent, entry.ino)
        change.renamed(new_parent, entry.ino)


def _move(change: Change, parent: Ino, source: Dirent, new_parent: Ino, new_name: bytes) -> None:
    namespace.remove_entry(change.txn, parent, source)
    namespace.add_entry(change.txn, new_parent, new_name, source.ino)
    _move_under(change, source.ino, parent, new_parent)


def _replace(change: Change, parent: Ino, source: Dirent, new_parent: Ino, target: Dirent) -> None:
    loser_is_dir = _is_dir(change, target.ino)
    if _is_dir(change, source.ino):
        if not loser_is_dir:
            raise NotADirectory(f"{target.name!r} in {new_parent}")
        if not namespace.is_empty(change.txn, target.ino):
            raise NotEmpty(f"{target.name!r} in {new_parent}")
        change.inode(new_parent).nlink -= 1
    elif loser_is_dir:
        raise IsADirectory(f"{target.name!r} in {new_parent}")
    namespace.remove_entry(change.txn, parent, source)
    namespace.point_entry(change.txn, new_parent, target, source.ino)
    change.lose_name(target.ino)
    _move_under(change, source.ino, parent, new_parent)


def _exchange(change: Change, parent: Ino, source: Dirent, new_parent: Ino, target: Dirent) -> None:
    namespace.point_entry(change.txn, parent, source, target.ino)
    namespace.point_entry(change.txn, new_parent, target, source.ino)
    _move_under(change, source.ino, parent, new_parent)
    _move_under(change, target.ino, new_parent, parent)
    change.put_with_ctime(target.ino)


def _move_under(change: Change, ino: Ino, parent: Ino, new_parent: Ino) -> None:
    """Let a moved directory's `..` and its parents' link counts follow."""
    if parent != new_parent and _is_dir(change, ino):
        change.inode(parent).nlink -= 1
        change.inode(new_parent).nlink += 1
        change.inode(ino).parent = new_parent


def _check_no_loop(change: Change, moved: Ino, parent: Ino, new_parent: Ino) -> None:
    """Refuse to move a directory under itself. The kernel does, too: this is the second lock."""
    if parent == new_parent or not _is_dir(change, moved):
        return
    at = new_parent
    while at != ROOT_INO:
        if at == moved:
            raise InvalidArgument(f"directory {moved} under itself")
        at = Ino(change.inode(at).parent)


def _is_dir(change: Change, ino: Ino) -> bool:
    return stat.S_ISDIR(change.inode(ino).mode)
