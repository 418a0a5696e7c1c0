"""The folder lost+found, what goes there, and what an inode's path is."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.format import U64, unpack_dirent
from dedupfs.core.types import NAME_MAX_BYTES, ROOT_INO, Ino
from dedupfs.store import namespace
from dedupfs.store.fsck.names import blank, put_root

if TYPE_CHECKING:
    from collections.abc import Collection

    from dedupfs.store.namespace import Dirent
    from dedupfs.store.txn import Txn

FOLDER: Final = b"lost+found"
PATH_ATTRIBUTE: Final = b"user.dedupfs.lost_path"
_VALUE_MAX_BYTES: Final = 32 * 1024
_DEPTH_MAX: Final = 4096


class Entry(NamedTuple):
    """A name of an inode."""

    parent: Ino
    dirent: Dirent


def entries_of(txn: Txn, inos: Collection[int]) -> dict[int, list[Entry]]:
    """Return all names of each of `inos`, in one pass."""
    wanted = {U64.pack(ino) for ino in inos}
    found: dict[int, list[Entry]] = {}
    if not wanted:
        return found
    for key, value in txn.scan("dirents", b""):
        if value[:8] in wanted and len(value) == 2 * U64.size and len(key) > U64.size:
            ino, cookie = unpack_dirent(value)
            entry = namespace.Dirent(cookie, ino, key[8:])
            found.setdefault(ino, []).append(Entry(Ino(U64.unpack_from(key)[0]), entry))
    return found


def paths_of(txn: Txn, entries: dict[int, list[Entry]]) -> dict[int, list[bytes]]:
    """Return the paths, below the root, of the names `entries_of` found; in one more pass."""
    above: set[int] = set()
    for names in entries.values():
        for entry in names:
            _add_ancestors(txn, entry.parent, above)
    directories = entries_of(txn, above)
    return {ino: [_path(entry, directories) for entry in names] for ino, names in entries.items()}


def _add_ancestors(txn: Txn, ino: Ino, above: set[int]) -> None:
    while ino != ROOT_INO and ino not in above:
        above.add(ino)
        inode = namespace.find_inode(txn, ino)
        if inode is None:
            return
        ino = Ino(inode.parent)


def _path(entry: Entry, directories: dict[int, list[Entry]]) -> bytes:
    parts = [entry.dirent.name]
    at = entry.parent
    while at != ROOT_INO and len(parts) < _DEPTH_MAX:
        above = directories.get(at)
        if not above:
            parts.append(b"?")
            break
        parts.append(above[0].dirent.name)
        at = above[0].parent
    return b"/".join(reversed(parts))


def is_inside(path: bytes) -> bool:
    """Tell whether a path is in a lost+found folder."""
    first, _, rest = path.partition(b"/")
    return first.startswith(FOLDER) and bool(rest)


def folder(txn: Txn) -> Ino:
    """Return the directory lost+found; make it if it is missing."""
    name = FOLDER
    for number in range(1, 1000):
        entry = namespace.find_entry(txn, ROOT_INO, name)
        if entry is None:
            break
        inode = namespace.find_inode(txn, entry.ino)
        if inode is not None and stat.S_ISDIR(inode.mode):
            return entry.ino
        name = FOLDER + b".%d" % number
    root = namespace.find_inode(txn, ROOT_INO)
    if root is None:
        put_root(txn)
        root = namespace.get_inode(txn, ROOT_INO)
    made = blank(stat.S_IFDIR | 0o700, ROOT_INO)
    made.uid, made.gid = root.uid, root.gid
    made.atime_ns = made.mtime_ns = made.ctime_ns = root.mtime_ns
    ino = namespace.add_inode(txn, made)
    namespace.add_entry(txn, ROOT_INO, name, ino)
    root.nlink += 1
    namespace.put_inode(txn, ROOT_INO, root)
    return ino


def take(txn: Txn, ino: Ino, names: list[Entry], paths: list[bytes]) -> bytes:
    """Move an inode to lost+found, with all its names; return its path there."""
    target = folder(txn)
    inode = namespace.get_inode(txn, ino)
    is_directory = stat.S_ISDIR(inode.mode)
    for parent, dirent in names:
        namespace.remove_entry(txn, parent, dirent)
        if is_directory:
            _count_links(txn, parent, -1)
    wanted = names[0].dirent.name if names else b"inode-%d" % ino
    add(txn, target, wanted, ino)
    inode.nlink = max(inode.nlink, 2) if is_directory else 1
    if is_directory:
        inode.parent = target
        _count_links(txn, target, 1)
    namespace.put_inode(txn, ino, inode)
    if paths:
        value = b"\n".join(paths)[:_VALUE_MAX_BYTES]
        namespace.put_xattr(txn, ino, PATH_ATTRIBUTE, value)
    return FOLDER + b"/" + _name(txn, target, ino, wanted)


def add(txn: Txn, parent: Ino, wanted: bytes, ino: Ino) -> None:
    """Enter `ino` under a free name like `wanted`."""
    name = wanted.replace(b"/", b"_").replace(b"\0", b"_")
    if name in {b"", b".", b".."} or namespace.find_entry(txn, parent, name) is not None:
        end = b".%d" % ino
        name = name[: NAME_MAX_BYTES - len(end)] + end
    namespace.add_entry(txn, parent, name, ino)


def _name(txn: Txn, parent: Ino, ino: Ino, wanted: bytes) -> bytes:
    last = list(namespace.entries(txn, parent, start=txn.counters.next_cookie - 1, stop=1 << 62))
    return last[-1].name if last and last[-1].ino == ino else wanted


def _count_links(txn: Txn, ino: Ino, change: int) -> None:
    inode = namespace.find_inode(txn, ino)
    if inode is not None and inode.nlink + change >= 0:
        inode.nlink += change
        namespace.put_inode(txn, ino, inode)
