"""Writing a file in calls of a given size, to close and then to the disk. Imports next to nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MIB = 1 << 20
PAGE_BYTES = 4096


def write_new(path: Path | str, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
    """Make a file of `pieces`, each one call, and close it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for piece in pieces:
            written = os.write(fd, piece)
            while written < len(piece):
                written += os.write(fd, memoryview(piece)[written:])
    finally:
        os.close(fd)


def sync(path: Path | str) -> None:
    """Have a closed file on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def in_calls(data: bytes | memoryview, call_bytes: int = MIB) -> list[memoryview]:
    """Return `data` in pieces of `call_bytes`; made before the clock starts."""
    view = memoryview(data)
    return [view[at : at + call_bytes] for at in range(0, len(view), call_bytes)]
