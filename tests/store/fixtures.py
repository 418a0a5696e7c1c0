"""The types of the fixtures in conftest.py."""

from __future__ import annotations

from typing import Protocol


class Write(Protocol):
    def __call__(self, ino: int, data: bytes, step: int = ..., offset: int = ...) -> None:
        """Write a whole file and close it."""


class Read(Protocol):
    def __call__(self, ino: int, size: int) -> bytes:
        """Return a file's bytes from the start, holes as zeros."""
