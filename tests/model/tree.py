"""The file system as it should be: dicts, sets and bytearrays."""

from __future__ import annotations

import random
from typing import Final

_RANDOM: Final = random.Random(20261121)
# What is written comes from here, so that files have much in common, at many shifts.
SOURCE: Final = (
    _RANDOM.randbytes(400_000) + bytes(60_000) + b"abcdefgh" * 10_000 + _RANDOM.randbytes(300_000)
)


class Node:
    """A file, directory or symlink."""

    def __init__(self, kind: str, ino: int) -> None:
        self.kind = kind
        self.ino = ino
        self.names = 1  # hard links; 0 for a removed directory, too
        self.data = bytearray()
        self.entries: dict[bytes, Node] = {}
        self.parent: Node | None = None
        self.target = b""
        self.xattrs: dict[bytes, bytes] = {}
        self.handles = 0
        self.lookups = 0

    @property
    def nlink(self) -> int:
        if self.kind != "dir":
            return self.names
        if not self.names:
            return 0
        return 2 + sum(child.kind == "dir" for child in self.entries.values())

    @property
    def is_alive(self) -> bool:
        return self.names > 0 or self.handles > 0 or self.lookups > 0

    def write(self, offset: int, data: bytes) -> None:
        if offset > len(self.data):
            self.data += bytes(offset - len(self.data))
        self.data[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self.data = self.data[:size] + bytes(max(0, size - len(self.data)))

    def is_under(self, other: Node) -> bool:
        """Return whether `other` is this directory or above it."""
        at: Node | None = self
        while at is not None:
            if at is other:
                return True
            at = at.parent
        return False
