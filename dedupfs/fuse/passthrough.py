"""Passthrough at the FUSE border: what it needs of the machine."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Final

from dedupfs.fuse import replies

KERNEL_MIN: Final = (6, 9)
_CAP_SYS_ADMIN: Final = 21
_OVERLAYFS_MAGIC: Final = 0x794C7630


def why_not() -> str | None:
    """Return why passthrough cannot be had here, None when it can."""
    missing = replies.why_missing()
    if missing is not None:
        return missing
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


def stack_depth(store: Path) -> int:
    """Return the max_stack_depth to ask for: 2 for a store on overlayfs, whose files are two deep."""
    buffer = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None).statfs(os.fsencode(store), buffer):
        return 1
    kind = int.from_bytes(buffer.raw[:8], sys.byteorder)
    return 2 if kind == _OVERLAYFS_MAGIC else 1
