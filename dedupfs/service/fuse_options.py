"""Which `-o` options of mount(8) go to FUSE as they are, and which say nothing to us. Pure."""

from __future__ import annotations

import re
from typing import Final

from dedupfs.service.schema import Kind, parse_list, show_list

# libfuse lib/mount.c, `fuse_mount_opts`.
_FLAGS: Final = frozenset(
    {
        "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "async", "sync", "dirsync",
        "atime", "noatime", "nodiratime", "default_permissions",
    }
)  # fmt: skip
# No max_read=: libfuse ends the session unless its init handler sets the same, and pyfuse3 has none.
_VALUES: Final = frozenset({"context", "fscontext", "defcontext", "rootcontext"})
# Meant for mount(8) and systemd, which hand them on all the same.
_NOISE: Final = re.compile(
    r"defaults|auto|noauto|users?|nousers?|user=.*|owner|group|nofail|_netdev|_rnetdev|comment=.*"
    r"|relatime|norelatime|strictatime|nostrictatime|diratime|lazytime|nolazytime"
    r"|[xX]-.*"
)


def is_for_fuse(item: str) -> bool:
    """Tell whether FUSE knows this item of a list."""
    name, has_value, _ = item.partition("=")
    return item in _FLAGS or (bool(has_value) and name in _VALUES)


def is_noise(item: str) -> bool:
    """Tell whether the item is for mount(8) or systemd only."""
    return bool(_NOISE.fullmatch(item))


def _parse(text: str) -> tuple[str, ...]:
    items = parse_list(text)
    for item in items:
        if not is_for_fuse(item):
            raise ValueError(item)
    return items


LIST: Final = Kind(
    "LIST",
    f"a list of {', '.join(sorted(_FLAGS))}, {', '.join(f'{name}=' for name in sorted(_VALUES))}",
    _parse,
    show_list,
)
