"""Helpers for tests that open folders and list them entry by entry."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mount.mounted import Mounted

_libc: Final = ctypes.CDLL(None, use_errno=True)
SYS_GETDENTS64: Final = {"x86_64": 217, "aarch64": 61}.get(os.uname().machine)


@contextlib.contextmanager
def fresh_folder(mount: Mounted, test_name: str) -> Iterator[Path]:
    """Make a folder of the mount for one test; the daemon must be alive after it."""
    place = mount.path / test_name.replace("[", "-").rstrip("]")
    place.mkdir()
    yield place
    assert mount.alive(), f"the daemon died: {mount.log()}"


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open for the block: a handle left behind would keep the mount busy."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def getdents(fd: int, size: int = 400) -> list[tuple[str, int, int, int]]:
    """Return a few entries: name, inode, kind, cookie."""
    buffer = ctypes.create_string_buffer(size)
    count = _libc.syscall(SYS_GETDENTS64, fd, buffer, size)
    assert count >= 0, os.strerror(ctypes.get_errno())
    entries, at = [], 0
    while at < count:
        ino, cookie, length, kind = struct.unpack_from("=QqHB", buffer, at)
        name = buffer.raw[at + 19 : at + length].split(b"\0", 1)[0]
        entries.append((os.fsdecode(name), ino, kind, cookie))
        at += length
    return entries


def entries_of(fd: int) -> list[tuple[str, int, int, int]]:
    """Return all entries from where the listing stands."""
    found = []
    while some := getdents(fd):
        found += some
    return found
