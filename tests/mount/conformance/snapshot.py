"""What a folder looks like, and what changed in it, in words that two file systems share."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from dataclasses import dataclass
from typing import Final, TypeAlias

_SAMPLE_BYTES: Final = 1 << 16
_DAY_NS: Final = 24 * 3600 * 10**9
_KINDS: Final = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "chr", stat.S_IFBLK: "blk",
}  # fmt: skip

Tree: TypeAlias = dict[str, os.stat_result]
Fields: TypeAlias = dict[str, int | str]


@dataclass(frozen=True)
class Clock:
    """Tells times that a call set from times that the file system took."""

    start_ns: int

    def taken(self, time_ns: int) -> bool:
        """Return whether a time is about now, so no value of ours."""
        return abs(time_ns - self.start_ns) < _DAY_NS


def tree(folder: str) -> Tree:
    """Return the stat of the folder itself ("."), and of all below it, by path."""
    found: Tree = {}
    pending = ["."]
    while pending:
        path = pending.pop()
        status = os.lstat(f"{folder}/{path}")
        found[path] = status
        if stat.S_ISDIR(status.st_mode):
            prefix = "" if path == "." else f"{path}/"
            pending.extend(prefix + name for name in _names(f"{folder}/{path}"))
    return found


def _names(folder: str) -> list[str]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def describe(before: Tree, after: Tree, clock: Clock, *, atime: bool) -> dict[str, Fields]:
    """Return each path's fields after a call, times as kept, new or the value they were set to."""
    old = {status.st_ino: status for status in before.values()}
    first: dict[int, str] = {}
    for path in sorted(after):
        first.setdefault(after[path].st_ino, path)
    described = {}
    for path, status in sorted(after.items()):
        fields = _fields(status)
        if first[status.st_ino] != path:
            fields["same_as"] = first[status.st_ino]
        was = old.get(status.st_ino)
        fields["mtime"] = _time(was and was.st_mtime_ns, status.st_mtime_ns, clock)
        fields["ctime"] = _time(was and was.st_ctime_ns, status.st_ctime_ns, clock)
        if atime:
            fields["atime"] = _time(was and was.st_atime_ns, status.st_atime_ns, clock)
        described[path] = fields
    return described


def _fields(status: os.stat_result) -> Fields:
    kind = stat.S_IFMT(status.st_mode)
    fields: Fields = {
        "kind": _KINDS.get(kind, "?"),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "nlink": status.st_nlink,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
    if kind in {stat.S_IFREG, stat.S_IFLNK}:
        fields["size"] = status.st_size
    if kind in {stat.S_IFCHR, stat.S_IFBLK}:
        fields["rdev"] = status.st_rdev
    return fields


def _time(was_ns: int | None, is_ns: int, clock: Clock) -> str:
    if was_ns == is_ns:
        return "kept"
    return "new" if clock.taken(is_ns) else str(is_ns)


def contents(folder: str) -> dict[str, Fields]:
    """Return what stat does not tell: data, symlink targets, extended attributes."""
    found = {}
    for path, status in sorted(tree(folder).items()):
        full = f"{folder}/{path}"
        fields: Fields = {}
        if stat.S_ISREG(status.st_mode):
            fields["data"] = digest(full)
        elif stat.S_ISLNK(status.st_mode):
            fields["target"] = os.readlink(full)
        for name in _attributes(full):
            with contextlib.suppress(OSError):
                value = os.getxattr(full, name, follow_symlinks=False)
                fields[f"xattr {name}"] = f"{len(value)} {zlib.crc32(value):08x}"
        found[path] = fields
    return found


def _attributes(path: str) -> list[str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        return [f"listxattr: {error.strerror}"]
    return sorted(name for name in names if not name.startswith("user.dedupfs."))


def digest(path: str) -> str:
    """Return a checksum of a file; of the ends of it if it is huge and so mostly holes."""
    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        size = os.fstat(fd).st_size
        if size <= 1 << 26:
            checksum = 0
            for offset in range(0, size, 1 << 20):
                checksum = zlib.crc32(os.pread(fd, 1 << 20, offset), checksum)
            return f"{checksum:08x}"
        ends = os.pread(fd, _SAMPLE_BYTES, 0) + os.pread(fd, _SAMPLE_BYTES, size - _SAMPLE_BYTES)
        return f"ends {zlib.crc32(ends):08x}"
    finally:
        os.close(fd)


def exact(folder: str) -> dict[str, Fields]:
    """Return what must survive a remount to the last bit."""
    found = {}
    for path, status in sorted(tree(folder).items()):
        fields = _fields(status)
        fields["ino"], fields["mtime_ns"] = status.st_ino, status.st_mtime_ns
        fields["ctime_ns"] = status.st_ctime_ns
        fields.setdefault("size", 0)
        if stat.S_ISREG(status.st_mode):
            fields["data"] = digest(f"{folder}/{path}")
        elif stat.S_ISLNK(status.st_mode):
            fields["target"] = os.readlink(f"{folder}/{path}")
        found[path] = fields
    return found
