"""Names and inodes by themselves: entries, listings, modes, sizes, attributes."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dedupfs.core.format import (
    PAIR,
    U64,
    Inode,
    pair_key,
    unpack_dirent,
    unpack_extent,
    unpack_pair,
)
from dedupfs.core.types import FILE_MAX_BYTES, PAGE_BYTES, ROOT_INO, Cookie, Ino
from dedupfs.store import namespace
from dedupfs.store.fsck.findings import Problem
from dedupfs.store.fsck.rows import INODE_COLUMNS, columns, deletion
from dedupfs.store.namespace import Dirent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dedupfs.store.fsck.findings import Progress
    from dedupfs.store.txn import Txn

_TYPES: Final = (
    stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK,
)  # fmt: skip
_TYPE_BITS: Final = 0o170000
_MODE_MAX: Final = 0o177777
_STEP: Final = 20_000


class Inodes(NamedTuple):
    """Columns of the inode table, in order of `ino`."""

    ino: NDArray[np.uint64]
    mode: NDArray[np.uint32]
    nlink: NDArray[np.uint32]
    size: NDArray[np.uint64]
    mapped: NDArray[np.uint64]
    parent: NDArray[np.uint64]

    @property
    def is_directory(self) -> NDArray[np.bool_]:
        """Whether each is a directory."""
        out: NDArray[np.bool_] = np.equal(self.mode & _TYPE_BITS, stat.S_IFDIR)
        return out

    @property
    def is_file(self) -> NDArray[np.bool_]:
        """Whether each is a regular file."""
        out: NDArray[np.bool_] = np.equal(self.mode & _TYPE_BITS, stat.S_IFREG)
        return out

    def rows_of(self, inos: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each of `inos`, -1 where there is none."""
        if not len(self.ino):
            return np.full(len(inos), -1)
        at = np.searchsorted(self.ino, inos)
        at[at == len(self.ino)] = 0
        return np.where(self.ino[at] == inos, at, -1)


def load_inodes(txn: Txn) -> Inodes:
    """Return the columns of all inodes."""
    names = ("ino", "mode", "nlink", "size", "mapped", "parent")
    parts = [
        [batch[name].astype(batch[name].dtype.newbyteorder("=")) for name in names]
        for batch in columns(txn, "inodes", INODE_COLUMNS)
    ]
    if not parts:
        parts = [[np.zeros(0, INODE_COLUMNS[name].newbyteorder("=")) for name in names]]
    return Inodes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Entries(NamedTuple):
    """Columns of the dirents, in order of parent and name."""

    parent: NDArray[np.uint64]
    ino: NDArray[np.uint64]
    cookie: NDArray[np.uint64]


def check(txn: Txn, inodes: Inodes, progress: Progress) -> tuple[Entries, list[Problem]]:
    """Check names and inodes by themselves; return the entries, too. `txn` has sound rows."""
    found: list[Problem] = []
    entries = _load_entries(txn, found, progress)
    found += _check_listings(txn, len(entries.ino))
    found += _check_inodes(txn, inodes)
    found += _check_owned(txn, inodes, "xattrs")
    return entries, found


def _load_entries(txn: Txn, found: list[Problem], progress: Progress) -> Entries:
    total, parts, step = txn.rows("dirents"), list[bytes](), list[bytes]()
    for key, value in txn.scan("dirents", b""):
        if len(key) <= U64.size or len(value) != PAIR.size:
            continue
        parent, name = key[:8], key[8:]
        is_listed = txn.get("cookies", parent + value[8:]) == value[:8] + name
        if not (is_listed and txn.get("parents", value) == parent):
            found.append(_unlisted(key, value))
        if b"/" in name or b"\0" in name or name in {b".", b".."}:
            ino = unpack_dirent(value)[0]
            found.append(Problem("name", f"{name!r} is no name", ino=ino, is_lost=True))
        step += (key[:8], value)
        if len(step) == 2 * _STEP:
            parts.append(b"".join(step))
            step.clear()
            progress("names", len(parts) * _STEP, total)
    raw = b"".join([*parts, *step])
    table = np.frombuffer(raw, ">u8").reshape(-1, 3).astype(np.uint64)
    return Entries(table[:, 0], table[:, 1], table[:, 2])


def _unlisted(key: bytes, value: bytes) -> Problem:
    """Return the problem of a name that can be opened and is not in the listing, or is there as another."""
    parent, name = Ino(U64.unpack_from(key)[0]), key[8:]
    ino, _cookie = unpack_dirent(value)
    detail = f"{name!r} in directory {parent} is not in its listing"

    def fix(txn: Txn) -> None:
        raw = txn.get("dirents", key)
        if raw is None:
            return
        listed = txn.get("cookies", key[:8] + raw[8:])
        if listed is None or name == listed[8:]:
            namespace.point_entry(txn, parent, Dirent(unpack_dirent(raw)[1], ino, name), ino)
            return
        last = txn.floor("cookies", pair_key(parent + 1, 0))
        behind = unpack_pair(last[0])[1] + 1 if last is not None else 3
        cookie = Cookie(max(txn.counters.next_cookie, behind))
        txn.counters.next_cookie = cookie + 1
        namespace.point_entry(txn, parent, Dirent(cookie, ino, name), ino)

    return Problem("listing", detail, ino=ino, fix=fix)


def _check_listings(txn: Txn, entries: int) -> list[Problem]:
    # Each entry was found in the listing: with as many rows there are no others.
    found = []
    if txn.rows("cookies") != entries:
        for key, value in txn.scan("cookies", b""):
            raw = txn.get("dirents", key[:8] + value[8:])
            if raw is None or raw[8:] != key[8:]:
                detail = f"{value[8:]!r} is listed in a directory and is not there"
                found.append(Problem("listing", detail, fix=deletion("cookies", key)))
    if txn.rows("parents") != entries:
        for key, value in txn.scan("parents", b""):
            listed = txn.get("cookies", value + key[8:])
            if listed is None or listed[:8] != key[:8]:
                detail = f"inode {int.from_bytes(key[:8], 'big')} has not the name it says"
                found.append(Problem("listing", detail, fix=deletion("parents", key)))
    return found


def _check_inodes(txn: Txn, inodes: Inodes) -> list[Problem]:
    """Check what an inode says by itself."""
    found = []
    kinds = inodes.mode & _TYPE_BITS
    for row in np.flatnonzero(~np.isin(kinds, _TYPES) | (inodes.mode > _MODE_MAX)):
        ino = Ino(int(inodes.ino[row]))
        detail = f"inode {ino}: {int(inodes.mode[row]):o} is no mode"
        mode = _likely_mode(txn, ino)
        found.append(
            Problem("inode", detail, ino=ino, fix=_setting(ino, "mode", mode), is_lost=True)
        )
    for row in np.flatnonzero(inodes.size > FILE_MAX_BYTES):
        ino = Ino(int(inodes.ino[row]))
        detail = f"inode {ino}: {int(inodes.size[row])} is no size"
        size = mapped_stop(txn, ino)
        found.append(
            Problem("inode", detail, ino=ino, fix=_setting(ino, "size", size), is_lost=True)
        )
    return found


def _likely_mode(txn: Txn, ino: Ino) -> int:
    if not namespace.is_empty(txn, ino):
        return stat.S_IFDIR | 0o700
    return stat.S_IFREG | 0o600


def mapped_stop(txn: Txn, ino: Ino) -> int:
    """Return where the content of an inode ends."""
    last = txn.floor("extents", pair_key(ino + 1, 0))
    if last is None or unpack_pair(last[0])[0] != ino:
        return 0
    return min(unpack_extent(*last).stop, FILE_MAX_BYTES)


class _setting:  # noqa: N801 - used as a function
    """Sets a field of an inode."""

    def __init__(self, ino: Ino, name: str, value: int) -> None:
        self._change = (ino, name, value)

    def __call__(self, txn: Txn) -> None:
        ino, name, value = self._change
        inode = namespace.find_inode(txn, ino)
        if inode is not None:
            setattr(inode, name, value)
            namespace.put_inode(txn, ino, inode)


setting = _setting


def _is_or_will_be(txn: Txn, inodes: Inodes, ino: Ino) -> bool:
    """Tell whether an inode is there, or will be made anew for what it holds."""
    if inodes.rows_of(np.array([ino], np.uint64))[0] >= 0:
        return True
    return mapped_stop(txn, ino) > 0 or not namespace.is_empty(txn, ino)


def _check_owned(txn: Txn, inodes: Inodes, table: str) -> list[Problem]:
    """Find rows keyed by an inode that does not exist."""
    found = []
    last, is_known = -1, False
    for key, _value in txn.scan(table, b""):
        ino = U64.unpack_from(key)[0] if len(key) >= U64.size else -1
        if ino != last:
            last = ino
            is_known = ino < 0 or _is_or_will_be(txn, inodes, Ino(ino))
        if not is_known:
            detail = f"{table}: a row of inode {ino}, which does not exist"
            found.append(Problem("row", detail, ino=ino, fix=deletion(table, key)))
    return found


def put_root(txn: Txn) -> None:
    """Make an empty root."""
    txn.put("inodes", U64.pack(ROOT_INO), blank(stat.S_IFDIR | 0o755, ROOT_INO).pack())


def blank(mode: int, parent: int = 0, size: int = PAGE_BYTES) -> Inode:
    """Return an inode in place of one that is lost."""
    return Inode(
        mode=mode, uid=0, gid=0, nlink=2 if parent else 1, rdev=0, size=size, mapped_bytes=0,
        atime_ns=0, mtime_ns=0, ctime_ns=0, parent=parent,
    )  # fmt: skip
