"""System calls that `os` does not offer, or only with its own checks in front."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_EACCESS: Final = 0x200
AT_SYMLINK_FOLLOW: Final = 0x400
AT_EMPTY_PATH: Final = 0x1000
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2
FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_COLLAPSE_RANGE: Final = 8
FALLOC_ZERO_RANGE: Final = 16
FALLOC_INSERT_RANGE: Final = 32

_libc = ctypes.CDLL(None, use_errno=True)
_offset = ctypes.c_int64


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def renameat2(old: str, new: str, flags: int) -> None:
    """rename, with RENAME_* flags."""
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def linkat(old_fd: int, old: str, new: str, flags: int) -> None:
    """Link, with AT_* flags, `old` seen from `old_fd`."""
    _check(_libc.linkat(old_fd, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def unlinkat(path: str, flags: int) -> None:
    """Unlink, with any flags."""
    _check(_libc.unlinkat(AT_FDCWD, os.fsencode(path), flags))


def utimensat(
    at_fd: int, path: str | None, times: tuple[int, int, int, int] | None, flags: int
) -> None:
    """Set times: (atime seconds, nanoseconds, mtime seconds, nanoseconds), None for now."""
    pair = None
    if times is not None:
        pair = (_Timespec * 2)(_Timespec(times[0], times[1]), _Timespec(times[2], times[3]))
    name = None if path is None else os.fsencode(path)
    _check(_libc.utimensat(at_fd, name, pair, flags))


def access(path: str, mode: int) -> None:
    """Raise what access(2) answers, where os.access would return False."""
    _check(_libc.access(os.fsencode(path), mode))


def faccessat(path: str, mode: int, flags: int) -> None:
    """access(2) with AT_* flags."""
    _check(_libc.faccessat(AT_FDCWD, os.fsencode(path), mode, flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) itself, not glibc's way round it."""
    _check(_libc.fallocate(fd, mode, _offset(offset), _offset(length)))


def posix_fallocate(fd: int, offset: int, length: int) -> None:
    """posix_fallocate(3), which writes where the file system cannot allocate."""
    code = _libc.posix_fallocate(fd, _offset(offset), _offset(length))
    if code:
        raise OSError(code, os.strerror(code))


def truncate(path: str, size: int) -> None:
    """truncate(2) with any size."""
    _check(_libc.truncate(os.fsencode(path), _offset(size)))


def copy_file_range(source: int, offset: int, target: int, target_offset: int, length: int) -> int:
    """copy_file_range(2); glibc has no way round it."""
    from_offset, to_offset = _offset(offset), _offset(target_offset)
    return _check(
        _libc.copy_file_range(
            source, ctypes.byref(from_offset), target, ctypes.byref(to_offset),
            ctypes.c_size_t(length), 0,
        )
    )  # fmt: skip


def become(uid: int, gid: int, groups: tuple[int, ...], umask: int) -> None:
    """Take another user's real and effective ids; the saved uid stays 0, so it can be undone."""
    os.setresuid(-1, 0, 0)
    os.setgroups(groups)
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)
    os.umask(umask)


def answer(code: int | None) -> str:
    """Return the name of an errno."""
    return errno.errorcode.get(code or 0, f"errno {code}")
