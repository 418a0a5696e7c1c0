"""The optional C extension that says in replies what pyfuse3 cannot, and the marks that ask for it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# As in _replies.c: a mark, 31 bits of backing id, 32 bits of handle.
_MARK: Final = 1 << 63
_ID_SHIFT: Final = 32
HANDLE_MASK: Final = (1 << 32) - 1


class _Extension(Protocol):
    """What `_replies.c` offers."""

    def is_active(self) -> bool:
        """Tell whether the session was mounted through it."""

    def after_reply(self, call: Callable[[], None], /) -> None:
        """Call it when the request that is being handled is answered, unless that awaits."""

    def take_written(self) -> bytes:
        """Return the bytes of the write request that came without any."""

    def backing_open(self, fd: int, /) -> int:
        """Register a file; return its id. Raises OSError."""

    def backing_close(self, backing_id: int, /) -> None:
        """Let it go. Raises OSError."""


def _load() -> tuple[_Extension | None, str]:
    # pyfuse3 is to find the extension's fuse_session_mount before libfuse's: so it is loaded first
    # (dedupfs/fuse/__init__.py), and for all to see.
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_GLOBAL)
    try:
        from dedupfs.fuse import _replies  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError as error:
        return None, str(error)
    finally:
        sys.setdlopenflags(flags)
    return _replies, ""


_extension, _why_absent = _load()


def why_missing() -> str | None:
    """Return why the extension is missing, and what to do; None when it is there."""
    if _extension is not None:
        return None
    return f"the C extension is missing ({_why_absent}): reinstall with gcc and libfuse3-dev"


def extension() -> _Extension | None:
    """Return the extension, if the mounted session goes through it."""
    return _extension if _extension is not None and _extension.is_active() else None


def written(buffer: bytes) -> bytes:
    """Return the bytes of a write for which pyfuse3 gave `buffer`: a large one has them elsewhere."""
    return buffer if buffer or _extension is None else _extension.take_written()


def mark(handle: int, backing_id: int | None) -> int:
    """Return the file handle for the kernel: with a backing id, one that is made passthrough."""
    return handle if backing_id is None else _MARK | backing_id << _ID_SHIFT | handle


def mark_listing(handle: int) -> int:
    """Return the directory handle for the kernel that lets it keep the listing."""
    return _MARK | handle


def unmark_listing(handle: int) -> int:
    """Return the directory handle as the vfs knows it."""
    return handle & ~_MARK
