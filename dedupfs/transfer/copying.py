"""Copying a tree so that a copy broken off anywhere can go on.

The modification time is set last: an entry whose type, size and mtime are those of the original is
whole. Nothing is kept beside the tree to know how far it came.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dedupfs.transfer.tree import Problems, TransferError, is_full, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dedupfs.transfer.tree import Entry

READ_BYTES: Final = 1 << 20
_HOLE_BYTES: Final = 64 * 1024
_ZEROS: Final = bytes(_HOLE_BYTES)
ATTRIBUTES: Final = "extended attributes"
# Kept by the file system below, not by us: computed values, and ACLs, which FUSE mounts lack.
_OURS: Final = "user.dedupfs."
_ACL: Final = "system.posix_acl_"
_REFUSED: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EINVAL, errno.E2BIG}
)
_NO_FOLLOW: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(slots=True)
class Copied:
    """What was done. `lost` counts what the target cannot hold, by kind."""

    files: int = 0
    there: int = 0
    bytes: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)

    def lose(self, kind: str) -> None:
        """Count one."""
        self.lost[kind] = self.lost.get(kind, 0) + 1


class Copier:
    """One copy of `source` to the existing directory `target`."""

    def __init__(
        self,
        source: bytes,
        target: bytes,
        *,
        replaces: bool,
        removes: bool,
        tick: Callable[[int], None],
    ) -> None:
        """Take the roots; the target is there. `tick` gets the bytes of each step.

        What differs in the target is replaced with `replaces`, a problem without; names that the
        source has not are removed with `removes`.
        """
        self.copied = Copied()
        self._source = source
        self._target = target
        self._replaces = replaces
        self._removes = removes
        self._tick = tick
        self._links: dict[tuple[int, int], bytes] = {}
        self._is_root = os.geteuid() == 0

    def run(self) -> Copied:
        """Copy; raise TransferError when there is no room. Other problems are in the result."""
        for entry in walk(self._source, self.copied.problems):
            try:
                self._copy(entry, os.path.join(self._target, entry.rel).rstrip(b"/"))  # noqa: PTH118
            except OSError as error:
                if is_full(error):
                    raise TransferError(
                        f"no space left ({error.strerror}) after {self.copied.bytes:,} bytes: make "
                        "room and run the command again, it goes on where it was"
                    ) from None
                self.copied.problems.add_error(entry.path, error)
        return self.copied

    def _copy(self, entry: Entry, target: bytes) -> None:
        if entry.kind == stat.S_IFDIR:
            if entry.is_left:
                self._leave_directory(entry, target)
            else:
                self._enter_directory(target)
            return
        if entry.kind == stat.S_IFSOCK:
            self.copied.lose("sockets")
            return
        key = entry.found.st_dev, entry.found.st_ino
        first = self._links.get(key)
        there = _lstat(target)
        if first is not None:
            self._link(first, target, there)
        else:
            if entry.found.st_nlink > 1:
                self._links[key] = target
            self._copy_inode(entry, target, there)

    def _enter_directory(self, target: bytes) -> None:
        there = _lstat(target)
        if there is not None and not stat.S_ISDIR(there.st_mode):
            self._remove(target, there)
            there = None
        if there is None:
            os.mkdir(target, 0o700)  # noqa: PTH102 - bytes
        elif stat.S_IMODE(there.st_mode) & 0o700 != 0o700:  # noqa: PLR2004 - to work in it
            os.chmod(target, 0o700)  # noqa: PTH101

    def _leave_directory(self, entry: Entry, target: bytes) -> None:
        if self._removes:
            ours = set(os.listdir(entry.path))  # noqa: PTH208
            for name in os.listdir(target):  # noqa: PTH208
                if name not in ours:
                    path = os.path.join(target, name)  # noqa: PTH118
                    self._remove(path, os.lstat(path))
        self._finish(entry, target)

    def _link(self, first: bytes, target: bytes, there: os.stat_result | None) -> None:
        if there is not None:
            if os.path.samestat(there, os.lstat(first)):
                return
            self._remove(target, there)
        os.link(first, target, follow_symlinks=False)
        self.copied.files += 1

    def _copy_inode(self, entry: Entry, target: bytes, there: os.stat_result | None) -> None:
        if there is not None:
            if is_whole(entry.found, there) and not self._is_outdated(entry, there):
                self.copied.there += 1
                self._tick(entry.found.st_size if entry.kind == stat.S_IFREG else 0)
                return
            self._remove(target, there)
        if entry.kind == stat.S_IFREG:
            self._copy_file(entry, target)
        elif entry.kind == stat.S_IFLNK:
            os.symlink(os.readlink(entry.path), target)  # noqa: PTH115, PTH211
        else:
            os.mknod(target, entry.kind | 0o600, entry.found.st_rdev)
        self._finish(entry, target)
        self.copied.files += 1

    def _is_outdated(self, entry: Entry, there: os.stat_result) -> bool:
        """Tell whether the original was touched behind its copy, whatever its mtime says."""
        return self._replaces and entry.found.st_ctime_ns >= there.st_ctime_ns

    def _copy_file(self, entry: Entry, target: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        mode = entry.found.st_mode & 0o777
        with opened(entry.path, _NO_FOLLOW) as source, opened(target, flags, mode) as sink:
            size = os.fstat(source).st_size
            written = 0
            for start, stop in data_ranges(source, 0, size):
                written = self._copy_range(source, sink, start, stop)
            if written < size:
                os.ftruncate(sink, size)

    def _copy_range(self, source: int, sink: int, start: int, stop: int) -> int:
        """Return behind which byte nothing was written."""
        written = 0
        while start < stop:
            piece = os.pread(source, min(READ_BYTES, stop - start), start)
            if not piece:
                break  # cut off meanwhile: the comparison finds that
            written = _write_data(sink, piece, start) or written
            start += len(piece)
            self.copied.bytes += len(piece)
            self._tick(len(piece))
        return written

    def _finish(self, entry: Entry, target: bytes) -> None:
        """Give it owner, attributes, mode and, last, the times."""
        found = entry.found
        there = os.lstat(target)
        if (there.st_uid, there.st_gid) != (found.st_uid, found.st_gid):
            try:
                os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
            except PermissionError:
                if self._is_root:
                    raise
                self.copied.lose("owners")
            there = os.lstat(target)  # chown takes the setuid bit away
        self._copy_attributes(entry.path, target)
        if entry.kind != stat.S_IFLNK and there.st_mode != found.st_mode:
            os.chmod(target, stat.S_IMODE(found.st_mode))  # noqa: PTH101
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)

    def _copy_attributes(self, source: bytes, target: bytes) -> None:
        for name in attributes(source):
            if name.startswith(_ACL):
                self.copied.lose("ACLs")
                continue
            try:
                value = os.getxattr(source, name, follow_symlinks=False)
                os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self.copied.lose(ATTRIBUTES)

    def _remove(self, path: bytes, there: os.stat_result) -> None:
        if not self._replaces:
            raise FileExistsError(errno.EEXIST, "the target has another one of that name")
        if stat.S_ISDIR(there.st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)  # noqa: PTH108


def is_whole(original: os.stat_result, copy: os.stat_result) -> bool:
    """Tell whether the copy was finished, and the original has not changed since."""
    same = stat.S_IFMT(original.st_mode) == stat.S_IFMT(copy.st_mode)
    return same and (original.st_size, original.st_mtime_ns) == (copy.st_size, copy.st_mtime_ns)


def attributes(path: bytes) -> list[str]:
    """Return the names of the extended attributes that belong to a copy, and ACLs."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in _REFUSED:
            return []
        raise
    return [name for name in names if not name.startswith(_OURS)]


def values(path: bytes) -> dict[str, bytes]:
    """Return the extended attributes that a copy should have."""
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in attributes(path)
        if not name.startswith(_ACL)
    }


def data_ranges(fd: int, at: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of `at..stop` of a file that are no holes (lseek(2), SEEK_DATA)."""
    while at < stop:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        if start < stop:
            yield start, min(at, stop)


def _write_data(sink: int, piece: bytes, offset: int) -> int:
    """Write `piece`, but for longer runs of zeros: they stay holes. Return the end, 0 for nothing."""
    if _ZEROS not in piece:
        _write_all(sink, piece, offset)
        return offset + len(piece)
    written = 0
    for at in range(0, len(piece), _HOLE_BYTES):
        part = piece[at : at + _HOLE_BYTES]
        if part.strip(b"\0"):
            _write_all(sink, part, offset + at)
            written = offset + at + len(part)
    return written


def _write_all(sink: int, piece: bytes, offset: int) -> None:
    done = os.pwrite(sink, piece, offset)
    while done < len(piece):
        done += os.pwrite(sink, piece[done:], offset + done)


@contextlib.contextmanager
def opened(path: bytes, flags: int, mode: int = 0o600) -> Iterator[int]:
    """Yield a descriptor; its close may raise what a write could not be told."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def _lstat(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
