"""The machine under a bench: its caches, memory and name. Reads the clock for whoever measures."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")
_MEMINFO: Final = Path("/proc/meminfo")
_KIB: Final = 1024


# Of what takes milliseconds in memory: another process on the machine must not decide it.
PASSES: Final = 5


def seconds(work: Callable[[], object], *, passes: int = 1) -> float:
    """Return how long `work` takes, the median of several times."""
    taken = []
    for _ in range(passes):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def can_drop_caches() -> bool:
    """Return whether this process may empty the kernel's caches."""
    return os.access(_DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Write back everything, then empty the kernel's page, dentry and inode caches.

    Those of a daemon's store are among them, so a mount is as cold as a plain directory.
    """
    os.sync()
    _DROP_CACHES.write_text("3")


def page_cache_bytes() -> int:
    """Return what the page cache of all files takes, shared memory left out (proc_meminfo(5))."""
    rows = (line.split() for line in _MEMINFO.read_text().splitlines())
    kib = {row[0].rstrip(":"): int(row[1]) for row in rows}
    return (kib["Cached"] + kib["Buffers"] - kib["Shmem"]) * _KIB


def memory_bytes(pid: int) -> int | None:
    """Return the resident memory of a dedupfs process; None when `pid` is none, or not ours."""
    folder = Path("/proc") / str(pid)
    try:
        if b"dedupfs" not in (folder / "cmdline").read_bytes():
            return None  # numbered in another pid namespace
        rows = (line.split() for line in (folder / "status").read_text().splitlines())
        return next((int(row[1]) * _KIB for row in rows if row[0] == "VmRSS:"), None)
    except OSError:
        return None


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "dedupfs": metadata.version("dedupfs"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }
