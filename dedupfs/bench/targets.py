"""The directories that are measured: what they are, a folder to work in, what they take on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.bench import system
from dedupfs.core.errors import DedupfsError
from dedupfs.core.quantities import size
from dedupfs.service import client, mounts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dedupfs.service.mounts import Mount

PREFIX: Final = ".dedupfs-bench-"
_REMOVERS: Final = 8
_SETTLE_S: Final = 3.0
_LOOK_AGAIN_S: Final = 0.05
_BLOCK_BYTES: Final = 512  # of st_blocks (stat(2))


class BenchError(DedupfsError):
    """A directory cannot be measured."""


@dataclass(frozen=True)
class Place:
    """A directory as the user named it."""

    name: str
    path: Path

    @property
    def mount(self) -> Mount | None:
        """What is mounted there."""
        path = mounts.resolve(self.path)
        above = [m for m in mounts.mounts() if m.path == path or m.path in path.parents]
        # Of those with the longest path the last one covers the others.
        return max(reversed(above), key=lambda mount: len(mount.path.parts), default=None)

    @property
    def fs_type(self) -> str:
        """The file system's type, as mount(8) shows it."""
        return self.mount.fs_type if self.mount else "unknown"

    @property
    def is_plain(self) -> bool:
        """Whether the kernel serves it alone."""
        return not self.fs_type.startswith("fuse")


class Target:
    """A directory being measured; everything happens in `work`, a folder of its own."""

    def __init__(self, place: Place, work: Path) -> None:
        self.name = place.name
        self.path = place.path
        self.work = work
        self.mount = place.mount
        self.fs_type = place.fs_type
        self.is_plain = place.is_plain

    def status(self) -> dict[str, object]:
        """Return what the daemon of a dedupfs mount says; empty for others and when it is mute."""
        if self.mount is None or not self.mount.is_dedupfs:
            return {}
        with contextlib.suppress(DedupfsError, OSError):
            return client.ask(self.mount.store, "status") or {}
        return {}

    def disk_bytes(self) -> int:
        """Return what is taken on disk now, of which only the growth means something."""
        allocated = self.status().get("allocated_bytes")
        if isinstance(allocated, int):
            return allocated
        if not self.is_plain or self.fs_type == "zfs":  # what `du` shows there may be shared
            room = os.statvfs(self.work)
            return (room.f_blocks - room.f_bfree) * room.f_frsize
        return _du(self.work)

    def daemon_bytes(self) -> int | None:
        """Return the resident memory of the daemon of a dedupfs mount."""
        pid = self.status().get("pid")
        return system.memory_bytes(pid) if isinstance(pid, int) else None

    def settle(self) -> None:
        """Have what was written and removed before done with, or it is paid for by what follows."""
        os.sync()
        fd = os.open(self.work, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)  # a checkpoint, after which dedupfs gives freed space back
        finally:
            os.close(fd)
        end = time.monotonic() + _SETTLE_S
        pause = threading.Event()
        while self.status().get("pending_free_bytes") and time.monotonic() < end:
            pause.wait(_LOOK_AGAIN_S)

    def describe(self) -> dict[str, object]:
        """Return what the report says about it."""
        status = self.status()
        about = {"name": self.name, "path": str(self.path), "file_system": self.fs_type}
        return about | {key: status[key] for key in ("io_mode", "io_reason") if key in status}


def _du(folder: Path) -> int:
    total = 0
    for top, _folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(top, name)).st_blocks * _BLOCK_BYTES
    return total


def check(places: Sequence[Place]) -> None:
    """Raise BenchError when a directory is missing, named twice or not writable."""
    seen: dict[Path, Place] = {}
    for place in places:
        try:
            mode = place.path.stat().st_mode
        except FileNotFoundError:
            raise BenchError(f"{place.path} does not exist: make it first") from None
        except OSError as error:  # a mount whose daemon died, too
            raise BenchError(f"{place.path}: {error.strerror}") from None
        if not stat.S_ISDIR(mode):
            raise BenchError(f"{place.path} is no directory")
        path = mounts.resolve(place.path)
        if path in seen:
            raise BenchError(f"{place.path} is given twice")
        seen[path] = place


@contextlib.contextmanager
def workspaces(places: Sequence[Place], *, keep: bool = False) -> Iterator[list[Target]]:
    """Yield a target for each place; their folders are removed at the end unless they are kept."""
    made: list[Path] = []
    try:
        targets = []
        for place in places:
            try:
                work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place.path))
            except OSError as error:
                raise BenchError(f"cannot write to {place.path}: {error.strerror}") from None
            made.append(work)
            targets.append(Target(place, work))
        yield targets
    finally:
        for work in () if keep else made:
            _remove(work)
            if work.exists():
                raise BenchError(f"{work} cannot be removed: remove it yourself")


def _remove(work: Path) -> None:
    """Remove a folder, its large ones by several threads: some file systems wait at each unlink."""
    with ThreadPoolExecutor(_REMOVERS) as pool:
        for folder in work.glob("*/*/"):
            pool.submit(shutil.rmtree, folder, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def check_room(targets: Sequence[Target], *, kept_bytes: int, run_bytes: int, files: int) -> None:
    """Raise BenchError when a file system has not enough room for all targets that lie on it.

    What jobs keep adds up; what they write and remove again is there for one target at a time.
    """
    sharing: dict[int, list[Target]] = {}
    for target in targets:
        sharing.setdefault(_device(target), []).append(target)
    for group in sharing.values():
        want = kept_bytes * len(group) + run_bytes
        for target in group:
            room = os.statvfs(target.work)
            free = room.f_bavail * room.f_frsize
            if free < want:
                raise BenchError(
                    f"{target.path} has {size(free)} free, {size(want)} are needed: "
                    "take a smaller --size or fewer --jobs"
                )
            if room.f_files and room.f_favail < files * len(group):
                raise BenchError(
                    f"{target.path} has room for {room.f_favail:,} files, "
                    f"{files * len(group):,} are needed: take fewer --entries"
                )


def _device(target: Target) -> int:
    if target.mount is not None and target.mount.is_dedupfs:
        with contextlib.suppress(OSError):
            return os.stat(target.mount.store).st_dev
    return os.stat(target.work).st_dev
