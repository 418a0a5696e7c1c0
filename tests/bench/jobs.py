"""What is timed: each job prepares a folder once, then does one round and returns a rate.

Knows nothing of mounts: the same jobs run on any directory. Rates are per second, more is better.
"""

from __future__ import annotations

import mmap
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

MIB: Final = 1 << 20
PAGE_BYTES: Final = 4096
_DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")
_NAME: Final = "item-{:06d}-of-the-cache.json"


class Job(Protocol):
    """One line of the report."""

    @property
    def name(self) -> str:
        """What is done, for people."""

    @property
    def unit(self) -> str:
        """What the rate counts."""

    def setup(self, folder: Path) -> None:
        """Make what `run` needs; must be quick when it is there already."""

    def run(self, folder: Path) -> float:
        """Do it once and return the rate."""


def can_drop_caches() -> bool:
    """Return whether this process may empty the kernel's caches."""
    return os.access(_DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Write back everything, then empty the kernel's page, dentry and inode caches."""
    os.sync()
    _DROP_CACHES.write_text("3")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _new_content(size_bytes: int) -> bytes:
    return np.random.default_rng().bytes(size_bytes)


def _write(path: Path, data: bytes, *, sync: bool) -> None:
    view = memoryview(data)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for at in range(0, len(data), MIB):
            os.write(fd, view[at : at + MIB])
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path) -> None:
    buffer = bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _original(folder: Path, size_bytes: int) -> Path:
    """Return a file of random content, made when it is not there."""
    path = folder / f"original-{size_bytes}"
    if not path.exists():
        _write(path, _new_content(size_bytes), sync=True)
    return path


def _many(folder: Path, count: int) -> Path:
    """Return a folder of `count` small files, made when it is not there."""
    path = folder / f"many-{count}"
    if not path.exists():
        path.mkdir()
        for number in range(count):
            (path / _NAME.format(number)).write_bytes(b"%064d" % number)
    return path


@dataclass(frozen=True)
class SequentialWrite:
    """Writes a file in calls of 1 MiB; `duplicate`: the folder holds the same bytes already."""

    size_bytes: int
    duplicate: bool
    sync: bool

    @property
    def name(self) -> str:
        content = "duplicate" if self.duplicate else "new"
        return f"1 MiB sequential write, {content}, to {'fsync' if self.sync else 'close'}"

    @property
    def unit(self) -> str:
        return "MiB/s"

    def setup(self, folder: Path) -> None:
        if self.duplicate:
            _original(folder, self.size_bytes)

    def run(self, folder: Path) -> float:
        path = folder / "written"
        if self.duplicate:
            data = _original(folder, self.size_bytes).read_bytes()
        else:
            data = _new_content(self.size_bytes)
        os.sync()  # else the last round's pages are written back in this one
        taken_s = _seconds(lambda: _write(path, data, sync=self.sync))
        path.unlink()
        return self.size_bytes / MIB / taken_s


@dataclass(frozen=True)
class SequentialRead:
    """Reads a file in calls of 1 MiB; `cold`: nothing of it is in memory."""

    size_bytes: int
    cold: bool

    @property
    def name(self) -> str:
        return f"sequential read, {'cold' if self.cold else 'warm'}"

    @property
    def unit(self) -> str:
        return "MiB/s"

    def setup(self, folder: Path) -> None:
        _original(folder, self.size_bytes)

    def run(self, folder: Path) -> float:
        path = _original(folder, self.size_bytes)
        if self.cold:
            drop_caches()
        else:
            _read(path)
        return self.size_bytes / MIB / _seconds(lambda: _read(path))


@dataclass(frozen=True)
class MappedRead:
    """Copies 4 KiB pages at random places out of a mapped file."""

    size_bytes: int
    count: int
    cold: bool

    @property
    def name(self) -> str:
        return f"4 KiB random mmap read, {'cold' if self.cold else 'warm'}"

    @property
    def unit(self) -> str:
        return "reads/s"

    def setup(self, folder: Path) -> None:
        _original(folder, self.size_bytes)

    def run(self, folder: Path) -> float:
        path = _original(folder, self.size_bytes)
        pages = np.random.default_rng().integers(0, self.size_bytes // PAGE_BYTES, self.count)
        places = [int(page) * PAGE_BYTES for page in pages]
        if self.cold:
            drop_caches()
        else:
            _read(path)
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped,
        ):
            return self.count / _seconds(
                lambda: [mapped[place : place + PAGE_BYTES] for place in places]
            )


@dataclass(frozen=True)
class Create:
    """Creates, writes and closes files of 4 KiB, all different, in one new folder."""

    count: int
    name: str = "create, write and close of 4 KiB files"
    unit: str = "files/s"

    def setup(self, folder: Path) -> None:
        """Need nothing."""

    def run(self, folder: Path) -> float:
        top = folder / "created"
        top.mkdir()
        contents = [_new_content(PAGE_BYTES) for _ in range(self.count)]
        os.sync()

        def create() -> None:
            for number, content in enumerate(contents):
                fd = os.open(top / _NAME.format(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                os.write(fd, content)
                os.close(fd)

        taken_s = _seconds(create)
        shutil.rmtree(top)
        return self.count / taken_s


@dataclass(frozen=True)
class Stat:
    """Stats every file of a large folder by its path."""

    count: int
    cold: bool

    @property
    def name(self) -> str:
        return f"stat of {self.count:,} files, {'cold' if self.cold else 'warm'}"

    @property
    def unit(self) -> str:
        return "files/s"

    def setup(self, folder: Path) -> None:
        _many(folder, self.count)

    def run(self, folder: Path) -> float:
        top = _many(folder, self.count)
        paths = [os.path.join(top, _NAME.format(number)) for number in range(self.count)]
        if self.cold:
            drop_caches()
        else:
            _stat_all(paths)
        return self.count / _seconds(lambda: _stat_all(paths))


def _stat_all(paths: list[str]) -> None:
    for path in paths:
        os.stat(path)


@dataclass(frozen=True)
class List:
    """Lists a large folder; `stats`: and stats every entry, as a cache's look-up does."""

    count: int
    cold: bool
    stats: bool

    @property
    def name(self) -> str:
        what = "readdir and stat" if self.stats else "readdir"
        return f"{what} of {self.count:,} entries, {'cold' if self.cold else 'warm'}"

    @property
    def unit(self) -> str:
        return "entries/s"

    def setup(self, folder: Path) -> None:
        _many(folder, self.count)

    def run(self, folder: Path) -> float:
        top = _many(folder, self.count)
        if self.cold:
            drop_caches()
        else:
            self._list(top)
        return self.count / _seconds(lambda: self._list(top))

    def _list(self, top: Path) -> None:
        with os.scandir(top) as entries:
            for entry in entries:
                if self.stats:
                    entry.stat()


def all_jobs(*, size_bytes: int, entries: int) -> list[Job]:
    """Return every job; those that need cold caches only where they can be had."""
    temperatures = (True, False) if can_drop_caches() else (False,)
    jobs: list[Job] = [
        SequentialWrite(size_bytes, duplicate, sync)
        for sync in (False, True)
        for duplicate in (False, True)
    ]
    jobs += [SequentialRead(size_bytes, cold) for cold in temperatures]
    jobs += [MappedRead(size_bytes, 2_000 if cold else 50_000, cold) for cold in temperatures]
    jobs.append(Create(max(entries // 5, 1)))
    jobs += [Stat(entries, cold) for cold in temperatures]
    jobs += [List(entries, cold, stats) for stats in (False, True) for cold in temperatures]
    return jobs
