"""The tree of names against the inodes: links, parents, orphans, reachability."""

from __future__ import annotations

import stat
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from dedupfs.core.format import PAIR, U64
from dedupfs.core.types import ROOT_INO, Cookie, Ino
from dedupfs.store import namespace
from dedupfs.store.fsck.findings import Problem
from dedupfs.store.fsck.names import blank, mapped_stop, put_root, setting
from dedupfs.store.fsck.rows import deletion
from dedupfs.store.namespace import Dirent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from dedupfs.store.fsck.names import Entries, Inodes
    from dedupfs.store.txn import Txn

_DOUBLINGS: Final = 63
_LINKS_MAX: Final = 1 << 31


class Tree:
    """The graph of directories and the links of files."""

    def __init__(self, txn: Txn, inodes: Inodes, entries: Entries) -> None:
        self._txn = txn
        self._inodes = inodes
        self._entries = entries
        self._target = inodes.rows_of(entries.ino)
        self._parent = inodes.rows_of(entries.parent)
        known = self._target[self._target >= 0]
        self._links = np.bincount(known, minlength=len(inodes.ino))
        self._found: list[Problem] = []

    def check(self) -> list[Problem]:
        """Check which names lead where."""
        root = self._inodes.rows_of(np.array([ROOT_INO], np.uint64))[0]
        if root < 0 or not self._inodes.is_directory[root]:
            if len(self._inodes.ino) or len(self._entries.ino):
                self._found.append(Problem("inode", "the root is missing", fix=put_root))
            return self._found
        self._check_entries()
        self._check_orphans(int(root))
        self._check_directories(int(root))
        self._check_links(int(root))
        return self._found

    def _rows(self, mask: NDArray[np.bool_]) -> Iterable[tuple[int, int, int, bytes]]:
        """Yield parent, ino, cookie and name of the entries `mask` selects."""
        for row in np.flatnonzero(mask):
            parent, ino, cookie = (int(column[row]) for column in self._entries)
            yield parent, ino, cookie, self._entry_name(parent, PAIR.pack(ino, cookie))

    def _entry_name(self, parent: int, value: bytes) -> bytes:
        listed = self._txn.get("cookies", U64.pack(parent) + value[8:])
        if listed and self._txn.get("dirents", U64.pack(parent) + listed[8:]) == value:
            return listed[8:]
        for key, found in self._txn.scan("dirents", U64.pack(parent), U64.pack(parent + 1)):
            if found == value:
                return key[8:]
        return b""

    def _check_entries(self) -> None:
        is_directory = self._inodes.is_directory
        for parent, ino, cookie, name in self._rows(self._target < 0):
            detail = f"{name!r} in directory {parent} names inode {ino}, which does not exist"
            fix = partial(
                _remove_entry, parent=Ino(parent), entry=Dirent(Cookie(cookie), Ino(ino), name)
            )
            if namespace.is_empty(self._txn, Ino(ino)) and not mapped_stop(self._txn, Ino(ino)):
                self._found.append(Problem("entry", detail, ino=ino, fix=fix))
        homeless = (self._parent < 0) | ~is_directory[self._parent]
        for parent in np.unique(self._entries.parent[homeless]):
            self._found.append(_directory_gone(self._txn, Ino(int(parent))))

    def _check_orphans(self, root: int) -> None:
        """Find orphans that have a name: the next start would drop them."""
        self._is_orphan = np.zeros(len(self._inodes.ino), bool)
        for key, _value in self._txn.scan("orphans", b""):
            if len(key) != U64.size:
                continue
            (ino,) = U64.unpack(key)
            row = int(self._inodes.rows_of(np.array([ino], np.uint64))[0])
            if row < 0 or row == root or self._links[row]:
                why = "does not exist" if row < 0 else "has a name"
                detail = f"inode {ino} is marked as unlinked and {why}"
                self._found.append(Problem("orphan", detail, ino=ino, fix=deletion("orphans", key)))
            else:
                self._is_orphan[row] = True

    def _check_directories(self, root: int) -> None:
        """Check that each directory has one name, knows its parent, and hangs from the root."""
        inodes = self._inodes
        is_directory = inodes.is_directory
        of_directories = (self._target >= 0) & is_directory[self._target] & (self._parent >= 0)
        above = np.arange(len(inodes.ino))  # of the root and of what has no name: itself
        above[self._target[of_directories]] = self._parent[of_directories]
        homeless = (self._target >= 0) & is_directory[self._target] & (self._parent < 0)
        above[self._target[homeless]] = root  # told of with their parent
        for row in np.flatnonzero(is_directory & (self._links > 1)):
            self._found += self._extra_names(int(row), int(above[row]))
        if self._links[root]:
            for parent, ino, cookie, name in self._rows(self._target == root):
                fix = partial(
                    _remove_entry, parent=Ino(parent), entry=Dirent(Cookie(cookie), Ino(ino), name)
                )
                self._found.append(Problem("entry", f"{name!r} names the root", ino=ino, fix=fix))
            above[root] = root
        known = inodes.ino[above]
        known[self._target[homeless]] = inodes.parent[self._target[homeless]]
        for row in np.flatnonzero(is_directory & (inodes.parent != known) & (self._links == 1)):
            ino = Ino(int(inodes.ino[row]))
            detail = f"directory {ino} says its parent is {inodes.parent[row]}, not {known[row]}"
            setter = setting(ino, "parent", int(known[row]))
            self._found.append(Problem("parent", detail, ino=ino, fix=setter))
        self._check_reach(root, above)

    def _extra_names(self, row: int, kept: int) -> Iterable[Problem]:
        keep = int(self._inodes.parent[row])
        mask = self._target == row
        parents = self._entries.parent[mask]
        if keep not in parents:
            keep = int(self._inodes.ino[kept])
        is_first = True
        for parent, ino, cookie, name in self._rows(mask):
            if parent == keep and is_first:
                is_first = False
                continue
            fix = partial(
                _remove_entry, parent=Ino(parent), entry=Dirent(Cookie(cookie), Ino(ino), name)
            )
            detail = f"{name!r} in directory {parent} is a second name of directory {ino}"
            yield Problem("entry", detail, ino=ino, fix=fix)

    def _check_reach(self, root: int, above: NDArray[np.int64]) -> None:
        """Find directories that hang from themselves: everything below cannot be reached."""
        for _ in range(_DOUBLINGS):
            further = above[above]
            if (further == above).all():
                break
            above = further
        is_directory = self._inodes.is_directory
        in_circle = is_directory & (self._links > 0) & ~self._is_orphan
        ends = np.unique(above[in_circle])
        seen: set[int] = set()
        for row in ends[(ends != root) & (self._links[ends] > 0) & is_directory[ends]]:
            ino = Ino(int(self._inodes.ino[row]))
            circle = _circle(self._txn, ino)
            if not seen & circle:
                seen |= circle
                detail = f"directory {ino} is below itself"
                self._found.append(Problem("circle", detail, ino=ino, is_lost=True))

    def _check_links(self, root: int) -> None:
        inodes = self._inodes
        is_directory = inodes.is_directory
        nameless = (self._links == 0) & ~self._is_orphan
        nameless[root] = False
        for row in np.flatnonzero(nameless):
            kind = "directory" if is_directory[row] else "file"
            ino = int(inodes.ino[row])
            self._found.append(
                Problem("unreachable", f"{kind} {ino} has no name", ino=ino, is_lost=True)
            )
        named = (self._target >= 0) & (self._parent >= 0)
        children = self._parent[named & is_directory[self._target]]
        want = np.where(
            is_directory, 2 + np.bincount(children, minlength=len(is_directory)), self._links
        )
        want[self._is_orphan] = 0
        for row in np.flatnonzero((inodes.nlink != want) & ~nameless):
            ino = Ino(int(inodes.ino[row]))
            detail = f"inode {ino} says it has {inodes.nlink[row]} links, and has {want[row]}"
            fix = setting(ino, "nlink", min(int(want[row]), _LINKS_MAX))
            self._found.append(Problem("links", detail, ino=ino, fix=fix))


def _circle(txn: Txn, ino: Ino) -> set[int]:
    """Return the directories from `ino` up to where it comes round."""
    seen: set[int] = set()
    while ino not in seen and ino != ROOT_INO:
        seen.add(ino)
        inode = namespace.find_inode(txn, ino)
        if inode is None:
            break
        ino = Ino(inode.parent)
    return seen


def _remove_entry(txn: Txn, *, parent: Ino, entry: Dirent) -> None:
    namespace.remove_entry(txn, parent, entry)


def _directory_gone(txn: Txn, ino: Ino) -> Problem:
    """Return the problem of a directory that has entries, and no inode, or that of something else."""
    inode = namespace.find_inode(txn, ino)
    detail = f"inode {ino} has entries and is " + ("no directory" if inode else "missing")

    def fix(txn: Txn) -> None:
        put = inode or blank(stat.S_IFDIR | 0o700, ROOT_INO)
        put.mode = stat.S_IFDIR | stat.S_IMODE(put.mode)
        put.parent = put.parent or ROOT_INO
        namespace.put_inode(txn, ino, put)

    return Problem("entry", detail, ino=ino, fix=fix, is_lost=True)
