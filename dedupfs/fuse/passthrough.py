"""Passthrough at the FUSE border: the optional C extension, what it needs, how handles carry it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from dedupfs.vfs.passthrough import BackingFiles

KERNEL_MIN: Final = (6, 9)
_CAP_SYS_ADMIN: Final = 21
_OVERLAYFS_MAGIC: Final = 0x794C7630
# As in _passthrough.c: a mark, 30 bits of backing id, 32 bits of handle.
_MARK: Final = 1 << 62
_ID_SHIFT: Final = 32
HANDLE_MASK: Final = (1 << 32) - 1


class _Extension(Protocol):
    """What `_passthrough.c` offers."""

    def is_active(self) -> bool:
        """Tell whether the session was mounted through it."""

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
        from dedupfs.fuse import _passthrough  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError as error:
        return None, str(error)
    finally:
        sys.setdlopenflags(flags)
    return _passthrough, ""


_extension, _why_absent = _load()


def why_not() -> str | None:
    """Return why passthrough cannot be had here, None when it can."""
    if _extension is None:
        return f"the C extension is missing ({_why_absent}): reinstall with gcc and libfuse3-dev"
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if found is None or (int(found[1]), int(found[2])) < KERNEL_MIN:
        return f"Linux {os.uname().release} has none: it came with 6.9"
    if not is_sys_admin():
        return "it needs CAP_SYS_ADMIN: mount as root"
    return None


def is_sys_admin() -> bool:
    """Tell whether this process may mount by itself."""
    status = Path("/proc/self/status").read_text()
    effective = int(re.search(r"^CapEff:\s*(\w+)$", status, re.MULTILINE)[1], 16)  # type: ignore[index]
    return bool(effective >> _CAP_SYS_ADMIN & 1)


def backing_files() -> BackingFiles | None:
    """Return the kernel's table of backing files of the mounted session, if it goes through us."""
    return _extension if _extension is not None and _extension.is_active() else None


def stack_depth(store: Path) -> int:
    """Return the max_stack_depth to ask for: 2 for a store on overlayfs, whose files are two deep."""
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None).statfs(os.fsencode(store), buffer):
        return 1
    kind = int.from_bytes(buffer.raw[:8], sys.byteorder)
    return 2 if kind == _OVERLAYFS_MAGIC else 1


def mark(handle: int, backing_id: int | None) -> int:
    """Return the handle for the kernel: with a backing id, one the extension makes passthrough."""
    return handle if backing_id is None else _MARK | backing_id << _ID_SHIFT | handle
