"""Whether a file has given bytes; by the optional C extension without a copy in memory."""

from __future__ import annotations

import os
from typing import Protocol


class _Extension(Protocol):
    """What `_compare.c` offers."""

    def equals(self, fd: int, offset: int, data: bytes, start: int, stop: int, /) -> bool:
        """Tell whether the file has `data[start:stop]` at `offset`."""


def _load() -> _Extension | None:
    try:
        from dedupfs.store import _compare  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError:
        return None
    extension: _Extension = _compare
    return extension


_extension = _load()


def holds(fd: int, offset: int, data: bytes, span: tuple[int, int]) -> bool:
    """Tell whether `data[slice(*span)]` stands at `offset`; False, too, when it cannot be read."""
    start, stop = span
    if _extension is not None:
        return _extension.equals(fd, offset, data, start, stop)
    try:
        return os.pread(fd, stop - start, offset) == data[start:stop]
    except OSError:
        return False
