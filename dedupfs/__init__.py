"""dedupfs: a FUSE file system that keeps equal bytes of many writers once.

import dedupfs

with dedupfs.mounted("/cache", store="/data/store", capacity="200G") as mount:
(mount / "rank0").mkdir()
print(mount.status().saved_bytes)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedupfs.core.errors import DedupfsError

if TYPE_CHECKING:
    from dedupfs.api import Mount, Status, mounted

    __version__: str

__all__ = ["DedupfsError", "Mount", "Status", "__version__", "mounted"]

_OF_API = frozenset({"Mount", "Status", "mounted"})


def __getattr__(name: str) -> object:
    # So that `import dedupfs` costs nothing, and every module of it imports this one.
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415

        return metadata.version("dedupfs")
    if name in _OF_API:
        from dedupfs import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
