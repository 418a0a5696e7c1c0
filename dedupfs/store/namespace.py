"""Typed rows of the namespace tables: inodes, dirents, cookies, xattrs, orphans."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.errors import NoSuchName
from dedupfs.core.format import (
    PAIR,
    U64,
    Inode,
    ino_key,
    name_key,
    pair_key,
    unpack_cookie_entry,
    unpack_dirent,
    unpack_pair,
)
from dedupfs.core.types import ROOT_INO, Cookie, Ino

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dedupfs.store.txn import Txn


DEPTH_MAX: Final = 10_000  # a damaged index may have a cycle


class Dirent(NamedTuple):
    """A name in a directory; `cookie` is its place in the listing, never used again."""

    cookie: Cookie
    ino: Ino
    name: bytes


def find_inode(txn: Txn, ino: Ino) -> Inode | None:
    """Return the inode, or None."""
    raw = txn.get("inodes", U64.pack(ino))
    return None if raw is None else Inode.unpack(raw)


def get_inode(txn: Txn, ino: Ino) -> Inode:
    """Return the inode; raise NoSuchName when it is gone."""
    raw = txn.get("inodes", U64.pack(ino))
    if raw is None:
        raise NoSuchName(f"inode {ino}")
    return Inode.unpack(raw)


def put_inode(txn: Txn, ino: Ino, inode: Inode) -> None:
    """Set the row of `ino`."""
    txn.put("inodes", U64.pack(ino), inode.pack())


def add_inode(txn: Txn, inode: Inode, ino: Ino | None = None) -> Ino:
    """Store a new inode under `ino`, or the next free number, and count it; return the number."""
    counters = txn.counters
    if ino is None:
        ino = Ino(counters.next_ino)
        counters.next_ino += 1
    if stat.S_ISDIR(inode.mode):
        counters.directories += 1
    else:
        counters.files += 1
    put_inode(txn, ino, inode)
    return ino


def remove_inode(txn: Txn, ino: Ino, inode: Inode) -> None:
    """Remove the row of `ino`, its xattrs and its orphan mark, and count it off."""
    for name in list_xattrs(txn, ino):
        remove_xattr(txn, ino, name)
    if stat.S_ISDIR(inode.mode):
        txn.counters.directories -= 1
    else:
        txn.counters.files -= 1
    txn.delete("orphans", ino_key(ino))
    txn.delete("inodes", ino_key(ino))


def find_entry(txn: Txn, parent: Ino, name: bytes) -> Dirent | None:
    """Return the entry `name` of directory `parent`, or None."""
    raw = txn.get("dirents", name_key(parent, name))
    if raw is None:
        return None
    ino, cookie = unpack_dirent(raw)
    return Dirent(cookie, ino, name)


def add_entry(txn: Txn, parent: Ino, name: bytes, ino: Ino) -> None:
    """Enter `name` for `ino` into `parent`, behind all entries of its listing."""
    cookie = Cookie(txn.counters.next_cookie)
    txn.counters.next_cookie += 1
    point_entry(txn, parent, Dirent(cookie, ino, name), ino)


def point_entry(txn: Txn, parent: Ino, entry: Dirent, ino: Ino) -> None:
    """Let `entry` of `parent` name `ino`; its place in the listing stays."""
    if ino != entry.ino:
        txn.delete("parents", pair_key(entry.ino, entry.cookie))
    txn.put("parents", pair_key(ino, entry.cookie), U64.pack(parent))
    txn.put("dirents", name_key(parent, entry.name), PAIR.pack(ino, entry.cookie))
    txn.put("cookies", pair_key(parent, entry.cookie), U64.pack(ino) + entry.name)


def remove_entry(txn: Txn, parent: Ino, entry: Dirent) -> None:
    """Remove `entry` from `parent`."""
    txn.delete("dirents", name_key(parent, entry.name))
    txn.delete("cookies", pair_key(parent, entry.cookie))
    txn.delete("parents", pair_key(entry.ino, entry.cookie))


def is_empty(txn: Txn, parent: Ino) -> bool:
    """Return whether directory `parent` has no entries."""
    rows = txn.scan("cookies", pair_key(parent, 0), pair_key(parent + 1, 0))
    return next(iter(rows), None) is None


def entries(txn: Txn, parent: Ino, *, start: int, stop: int) -> Iterator[Dirent]:
    """Yield the entries of `parent` with `start <= cookie < stop`, in order."""
    for key, value in txn.scan("cookies", pair_key(parent, start), pair_key(parent, stop)):
        ino, name = unpack_cookie_entry(value)
        yield Dirent(Cookie(unpack_pair(key)[1]), ino, name)


def names_of(txn: Txn, ino: Ino) -> list[tuple[Ino, Dirent]]:
    """Return the entries that name `ino`, each with its directory."""
    found: list[tuple[Ino, Dirent]] = []
    for key, value in txn.scan("parents", pair_key(ino, 0), pair_key(ino + 1, 0)):
        parent, cookie = Ino(U64.unpack(value)[0]), Cookie(unpack_pair(key)[1])
        raw = txn.get("cookies", pair_key(parent, cookie))
        if raw is not None:
            found.append((parent, Dirent(cookie, ino, unpack_cookie_entry(raw)[1])))
    return found


def path_of(txn: Txn, ino: Ino) -> bytes | None:
    """Return a path of `ino` from the root, without a leading slash; None when it has no name."""
    parts: list[bytes] = []
    while ino != ROOT_INO:
        names = names_of(txn, ino)
        if not names or len(parts) > DEPTH_MAX:
            return None
        ino, entry = names[0]
        parts.append(entry.name)
    return b"/".join(reversed(parts))


def at_path(txn: Txn, path: bytes) -> Ino:
    """Return the inode at a path from the root. Raises NoSuchName."""
    at = ROOT_INO
    for name in filter(None, path.split(b"/")):
        entry = find_entry(txn, at, name)
        if entry is None:
            raise NoSuchName(f"{path!r}")
        at = entry.ino
    return at


def get_xattr(txn: Txn, ino: Ino, name: bytes) -> bytes | None:
    """Return the value of the extended attribute, or None."""
    return txn.get("xattrs", name_key(ino, name))


def put_xattr(txn: Txn, ino: Ino, name: bytes, value: bytes) -> None:
    """Set the extended attribute."""
    txn.put("xattrs", name_key(ino, name), value)


def remove_xattr(txn: Txn, ino: Ino, name: bytes) -> bool:
    """Remove the extended attribute; return whether it was there."""
    return txn.delete("xattrs", name_key(ino, name))


def list_xattrs(txn: Txn, ino: Ino) -> list[bytes]:
    """Return the names of the stored extended attributes."""
    rows = txn.scan("xattrs", ino_key(ino), ino_key(Ino(ino + 1)))
    return [key[U64.size :] for key, _ in rows]


def add_orphan(txn: Txn, ino: Ino) -> None:
    """Mark `ino` as without a name but in use: a start after a crash drops it."""
    txn.put("orphans", ino_key(ino), b"")


def orphans(txn: Txn) -> list[Ino]:
    """Return all inodes that have no name."""
    return [Ino(U64.unpack(key)[0]) for key, _ in txn.scan("orphans", b"")]
