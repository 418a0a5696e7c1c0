"""The calls a case may make, by name. Paths are relative to the case's folder, files are named."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import stat
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from mount.conformance import syscalls
from mount.conformance.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW

if TYPE_CHECKING:
    from collections.abc import Callable

Answer: TypeAlias = int | str | list[str] | None

# Calls that may change an atime; FUSE leaves atime to the server, ext4 to relatime.
READING: Final = frozenset(
    {"read", "pread", "preadv2", "listdir", "readlink", "map_read", "map_write", "execute"}
)


@dataclass
class Session:
    """One case in progress: its folder and the files it holds open."""

    folder: str
    files: dict[str, int] = field(default_factory=dict)
    maps: dict[str, mmap.mmap] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of everything."""
        for one in self.maps.values():
            one.close()
        for fd in self.files.values():
            with contextlib.suppress(OSError):
                os.close(fd)
        self.maps.clear()
        self.files.clear()


def pattern(size: int) -> bytes:
    """Return bytes in which every position is recognisable."""
    words = b"".join(number.to_bytes(4, "big") for number in range(min(size, 1 << 16) // 4 + 1))
    return (words * (size // len(words) + 1))[:size]


def _data(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else pattern(value)


def _sum(data: bytes) -> str:
    return f"{len(data)} bytes {zlib.crc32(data):08x}"


# ---- names


def _open(session: Session, name: str, path: str, flags: int, mode: int = 0o644) -> None:
    if name in session.files:
        os.close(session.files.pop(name))
    session.files[name] = os.open(path, flags, mode)


def _close(session: Session, name: str) -> None:
    os.close(session.files.pop(name))


def _put(session: Session, path: str, data: int | bytes = 0, mode: int = 0o644) -> None:
    """Make a file with exactly these mode bits."""
    del session
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, _data(data)) if data else None
    os.fchmod(fd, mode)
    os.close(fd)


def _dir(session: Session, path: str, mode: int = 0o755) -> None:
    """Make a directory with exactly these mode bits."""
    del session
    os.mkdir(path)
    os.chmod(path, mode)


def _dirs(session: Session, path: str) -> None:
    del session
    os.makedirs(path)


def _mknod(session: Session, path: str, mode: int, major: int = 0, minor: int = 0) -> None:
    del session
    os.mknod(path, mode, os.makedev(major, minor))


def _bind(session: Session, path: str) -> None:
    del session
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)


def _chain(session: Session, count: int, target: str) -> None:
    """chain1 -> target, chain2 -> chain1, ..."""
    del session
    for number in range(1, count + 1):
        os.symlink(target if number == 1 else f"chain{number - 1}", f"chain{number}")


def _linkat_file(session: Session, name: str, path: str) -> None:
    syscalls.linkat(session.files[name], "", path, AT_EMPTY_PATH)


def _linkat_proc(session: Session, name: str, path: str) -> None:
    syscalls.linkat(
        AT_FDCWD, f"/proc/self/fd/{session.files[name]}", path, syscalls.AT_SYMLINK_FOLLOW
    )


def _reopen(session: Session, name: str, old: str, flags: int) -> None:
    session.files[name] = os.open(f"/proc/self/fd/{session.files[old]}", flags)


def _listdir(session: Session, path: str) -> list[str]:
    del session
    return sorted(os.listdir(path))


def _listdir_file(session: Session, name: str) -> list[str]:
    os.lseek(session.files[name], 0, os.SEEK_SET)
    return sorted(os.listdir(session.files[name]))


def _in_removed(session: Session, folder: str, call: str, *args: int | str | bytes) -> Answer:
    """Make a call while the working folder does not exist any more."""
    os.chdir(folder)
    os.rmdir(f"../{folder}")
    return CALLS[call](session, *args)


# ---- data


def _seek(session: Session, name: str, offset: int, whence: int) -> int:
    return os.lseek(session.files[name], offset, whence)


def _append_twice(session: Session, one: str, other: str, count: int) -> None:
    """Two O_APPEND handles in turns: none may overwrite the other."""
    for number in range(count):
        os.write(session.files[one if number % 2 else other], b"%07d\n" % number)


def _copy_range(session: Session, name: str, offset: int, other: str, to: int, size: int) -> int:
    return syscalls.copy_file_range(session.files[name], offset, session.files[other], to, size)


def _map(session: Session, name: str, size: int, flags: int, protection: int) -> None:
    session.maps[name] = mmap.mmap(session.files[name], size, flags, protection)


def _map_write(session: Session, name: str, offset: int, data: bytes) -> None:
    session.maps[name][offset : offset + len(data)] = data


def _map_sync(session: Session, name: str) -> None:
    session.maps[name].flush()


def _map_read(session: Session, name: str, offset: int, size: int) -> str:
    return _sum(session.maps[name][offset : offset + size])


def _fstat(session: Session, name: str) -> list[str]:
    status = os.fstat(session.files[name])
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return [f"{status.st_mode:o}", f"nlink {status.st_nlink}", f"size {size}",
            f"owner {status.st_uid}:{status.st_gid}"]  # fmt: skip


def _fstat_same(session: Session, name: str, path: str) -> str:
    return str(os.path.samestat(os.fstat(session.files[name]), os.stat(path)))


def _execute(session: Session, path: str) -> int:
    del session
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.execv(path, ["program"])  # noqa: S606
    except OSError as error:
        os._exit(error.errno or 1)


# ---- extended attributes and times


def _setxattr(session: Session, path: str, name: str, value: int | bytes, flags: int = 0) -> None:
    del session
    os.setxattr(path, name, _data(value), flags)


def _lsetxattr(session: Session, path: str, name: str, value: int | bytes, flags: int = 0) -> None:
    del session
    os.setxattr(path, name, _data(value), flags, follow_symlinks=False)


def _getxattr(session: Session, path: str, name: str) -> str:
    del session
    return _sum(os.getxattr(path, name))


def _listxattr(session: Session, path: str) -> list[str]:
    del session
    return sorted(name for name in os.listxattr(path) if not name.startswith("user.dedupfs."))


def _utimens(session: Session, path: str, a_s: int, a_ns: int, m_s: int, m_ns: int) -> None:
    del session
    syscalls.utimensat(AT_FDCWD, path, (a_s, a_ns, m_s, m_ns), 0)


def _lutimens(session: Session, path: str, a_s: int, a_ns: int, m_s: int, m_ns: int) -> None:
    del session
    syscalls.utimensat(AT_FDCWD, path, (a_s, a_ns, m_s, m_ns), AT_SYMLINK_NOFOLLOW)


def _utime_now(session: Session, path: str) -> None:
    del session
    syscalls.utimensat(AT_FDCWD, path, None, 0)


def _futimens(session: Session, name: str, a_s: int, a_ns: int, m_s: int, m_ns: int) -> None:
    syscalls.utimensat(session.files[name], None, (a_s, a_ns, m_s, m_ns), 0)


def _plain(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Adapt a call that takes paths only."""
    return lambda _session, *args: function(*args)


def _handle(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Adapt a call whose first argument is an open file."""
    return lambda session, name, *args: function(session.files[name], *args)


def _nothing(function: Callable[..., object]) -> Callable[..., None]:
    def call(*args: object) -> None:
        function(*args)

    return call


CALLS: Final[dict[str, Callable[..., Answer]]] = {
    "open": _open, "close": _close, "put": _put, "dir": _dir, "dirs": _dirs,
    "mkdir": _plain(os.mkdir), "rmdir": _plain(os.rmdir), "unlink": _plain(os.unlink),
    "unlinkat": _plain(syscalls.unlinkat), "rename": _plain(os.rename),
    "renameat2": _plain(syscalls.renameat2), "link": _plain(os.link),
    "linkat": _plain(lambda old, new, flags: syscalls.linkat(AT_FDCWD, old, new, flags)),
    "linkat_file": _linkat_file, "linkat_proc": _linkat_proc, "reopen": _reopen,
    "symlink": _plain(os.symlink), "readlink": _plain(os.readlink), "chain": _chain,
    "mknod": _mknod, "mkfifo": _plain(os.mkfifo), "bind": _bind,
    "chdir": _plain(os.chdir), "listdir": _listdir, "listdir_file": _listdir_file,
    "getcwd": _plain(_nothing(os.getcwd)), "in_removed": _in_removed,
    "stat": _plain(_nothing(os.stat)), "lstat": _plain(_nothing(os.lstat)),
    "statvfs": _plain(_nothing(os.statvfs)), "fstat": _fstat, "fstat_same": _fstat_same,
    "access": _plain(syscalls.access), "faccessat": _plain(syscalls.faccessat),
    "chmod": _plain(os.chmod), "fchmod": _handle(os.fchmod),
    "chown": _plain(os.chown), "lchown": _plain(os.lchown), "fchown": _handle(os.fchown),
    "truncate": _plain(syscalls.truncate), "ftruncate": _handle(os.ftruncate),
    "read": lambda session, name, size: _sum(os.read(session.files[name], size)),
    "pread": lambda session, name, size, at: _sum(os.pread(session.files[name], size, at)),
    "write": lambda session, name, data: os.write(session.files[name], _data(data)),
    "pwrite": lambda session, name, data, at: os.pwrite(session.files[name], _data(data), at),
    "writev": lambda session, name, *data: os.writev(session.files[name], [*map(_data, data)]),
    "pwritev2": lambda session, name, data, at, flags: os.pwritev(
        session.files[name], [_data(data)], at, flags),
    "preadv2": lambda session, name, size, at, flags: os.preadv(
        session.files[name], [bytearray(size)], at, flags),
    "seek": _seek, "append_twice": _append_twice, "copy_range": _copy_range,
    "fallocate": _handle(syscalls.fallocate),
    "posix_fallocate": _handle(syscalls.posix_fallocate),
    "fsync": _handle(os.fsync), "fdatasync": _handle(os.fdatasync),
    "map": _map, "map_write": _map_write, "map_read": _map_read, "map_sync": _map_sync,
    "execute": _execute,
    "setxattr": _setxattr, "lsetxattr": _lsetxattr, "getxattr": _getxattr,
    "lgetxattr": _plain(lambda path, name: _sum(os.getxattr(path, name, follow_symlinks=False))),
    "listxattr": _listxattr, "removexattr": _plain(os.removexattr),
    "lremovexattr": _plain(lambda path, name: os.removexattr(path, name, follow_symlinks=False)),
    "fsetxattr": _handle(lambda fd, name, value: os.setxattr(fd, name, _data(value))),
    "fgetxattr": _handle(lambda fd, name: _sum(os.getxattr(fd, name))),
    "utimens": _utimens, "lutimens": _lutimens, "utime_now": _utime_now, "futimens": _futimens,
}  # fmt: skip
