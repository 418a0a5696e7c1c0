"""Many small files: making, finding, listing and removing them."""

from __future__ import annotations

import os
import shutil
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from dedupfs.bench.figures import Figure, Kind
from dedupfs.bench.job import Need, contents, names, small_files
from dedupfs.bench.system import PASSES, drop_caches, seconds
from dedupfs.bench.writing import MIB, PAGE_BYTES, write_new

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dedupfs.bench.job import Settings
    from dedupfs.bench.targets import Target

_IN_A_FOLDER: Final = 1000
_HITS: Final = 2000
_WARM_HITS: Final = 100  # different files that are hit again and again
_WARM_TIMES: Final = 10
_CREATED: Final = 2000
_LISTED: Final = 10_000
_FILE_DISK_BYTES: Final = 5120  # a page, and its part of inodes, names and index


def _each(function: Callable[[str], object], paths: Sequence[str], *, passes: int = 1) -> float:
    """Return how many paths a second `function` takes."""

    def work() -> None:
        for path in paths:
            function(path)

    return len(paths) / seconds(work, passes=passes)


def _open_close(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.read(fd, PAGE_BYTES)
    os.close(fd)


def _hit(path: str) -> None:
    _read(path)
    os.utime(path)


def _list(folder: Path, *, stats: bool) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if stats:
                entry.stat()


@dataclass(frozen=True)
class SmallFiles:
    """Creates, reads and removes files of 4 KiB, all different, in one new folder."""

    settings: Settings
    name: str = "small"

    @property
    def _count(self) -> int:
        return max(min(_CREATED, self.settings.entries), 2)

    @property
    def about(self) -> str:
        return f"create + write + close of {self._count:,} files of 4 KiB, cold read, unlink"

    def figures(self) -> Sequence[Figure]:
        cold = Figure(
            "cold", "open + read + close of 4 KiB files, cold", "files/s", Kind.RATE, headline=True
        )
        return [
            Figure(
                "create",
                "create + write + close of 4 KiB files",
                "files/s",
                Kind.RATE,
                headline=True,
            ),
            *([cold] if self.settings.cold else []),
            Figure("unlink", "unlink of 4 KiB files", "files/s", Kind.RATE),
        ]

    def need(self) -> Need:
        return Need(run_bytes=self._count * _FILE_DISK_BYTES, files=self._count)

    def skipped(self) -> str | None:
        return None

    def setup(self, target: Target) -> None:
        del target

    def run(self, target: Target) -> Mapping[str, float]:
        top = target.work / "created"
        top.mkdir()
        paths, pages = names(top, self._count), [[page] for page in contents(self._count)]

        def create() -> None:
            for path, page in zip(paths, pages, strict=True):
                write_new(path, page)

        values = {"create": len(paths) / seconds(create)}
        target.settle()
        kept, removed = paths[::2], paths[1::2]
        values["unlink"] = _each(os.unlink, removed)
        if self.settings.cold:
            drop_caches()
            values["cold"] = _each(_read, kept)
        shutil.rmtree(top)
        return values


@dataclass(frozen=True)
class Metadata:
    """Opens, stats and lists a large folder."""

    settings: Settings
    name: str = "metadata"

    @property
    def _count(self) -> int:
        return min(_LISTED, self.settings.entries)

    @property
    def about(self) -> str:
        return f"open, stat, readdir, readdir + stat in a folder of {self._count:,} files"

    def figures(self) -> Sequence[Figure]:
        def figure(key: str, what: str, *, headline: bool = False) -> Figure:
            return Figure(key, f"{what} of {self._count:,} files", "files/s", Kind.RATE, headline)

        cold = [
            figure("stat-cold", "cold stat"),
            figure("list-cold", "cold readdir + stat"),
        ]
        return [
            *(cold if self.settings.cold else []),
            figure("stat", "warm stat"),
            figure("names", "warm readdir"),
            figure("list", "warm readdir + stat", headline=True),
            figure("open", "warm open + close"),
        ]

    def need(self) -> Need:
        return Need(kept_bytes=self._count * _FILE_DISK_BYTES, files=self._count)

    def skipped(self) -> str | None:
        return None

    def _folder(self, target: Target) -> Path:
        return target.work / f"listed-{self._count}"

    def setup(self, target: Target) -> None:
        small_files(self._folder(target), self._count)

    def run(self, target: Target) -> Mapping[str, float]:
        folder = self._folder(target)
        paths = names(folder, self._count)
        values = {}
        if self.settings.cold:
            drop_caches()
            values["list-cold"] = self._listing(folder, stats=True)
            drop_caches()
            values["stat-cold"] = _each(os.stat, paths)
        _each(os.stat, paths)
        _list(folder, stats=True)
        return values | {
            "stat": _each(os.stat, paths, passes=PASSES),
            "names": self._listing(folder, stats=False, passes=PASSES),
            "list": self._listing(folder, stats=True, passes=PASSES),
            # Last: with a writeback cache the kernel asks for attributes anew after each close.
            "open": _each(_open_close, paths, passes=PASSES),
        }

    def _listing(self, folder: Path, *, stats: bool, passes: int = 1) -> float:
        return self._count / seconds(lambda: _list(folder, stats=stats), passes=passes)


@dataclass(frozen=True)
class Hits:
    """Hits of a cache of `count` files: open, read 4 KiB, close, utimens.

    `few`: the same job with few files, to which the cost of a hit is compared. Each job adds its
    files to those of the jobs before.
    """

    settings: Settings
    count: int
    few: Hits | None = None
    seen: dict[str, list[float]] = field(default_factory=dict)  # warm rates by target

    @property
    def name(self) -> str:
        return f"hits-{self.count}"

    @property
    def about(self) -> str:
        return f"cache hits (open, read 4 KiB, close, utimens) with {self.count:,} files"

    def figures(self) -> Sequence[Figure]:
        files = f"{self.count:,} files"
        cold = [Figure("cold", f"first cache hit with {files}, cold", "hits/s", Kind.RATE)]
        found = [
            *(cold if self.settings.cold else []),
            Figure(
                "warm",
                f"cache hits with {files}",
                "hits/s",
                Kind.RATE,
                headline=self.few is not None,
            ),
        ]
        if self.few is not None:
            what = f"cost of a hit with {self.count:,} files against {self.few.count:,}"
            found += [
                Figure("cost", what, "x", Kind.FACTOR),
                Figure("memory", f"memory of the daemon with {files}", "MiB", Kind.SPACE),
            ]
        return found

    def need(self) -> Need:
        return Need(kept_bytes=self.count * _FILE_DISK_BYTES, files=self.count)

    def skipped(self) -> str | None:
        return None

    def _folders(self, target: Target) -> list[tuple[Path, int]]:
        """Return folders and how many files each has."""
        top = target.work / f"cache-{self.count}"
        return [
            (top / f"{start // _IN_A_FOLDER:04d}", min(_IN_A_FOLDER, self.count - start))
            for start in range(0, self.count, _IN_A_FOLDER)
        ]

    def setup(self, target: Target) -> None:
        for folder, count in self._folders(target):
            folder.parent.mkdir(exist_ok=True)
            small_files(folder, count)

    def run(self, target: Target) -> Mapping[str, float]:
        rng = np.random.default_rng()
        paths = [path for folder in self._folders(target) for path in names(*folder)]
        chosen = [paths[n] for n in rng.choice(len(paths), min(_HITS, len(paths)), replace=False)]
        values = {}
        if self.settings.cold:
            drop_caches()
            values["cold"] = _each(_hit, chosen)
        again = chosen[:_WARM_HITS]
        _each(_hit, again)
        values["warm"] = _each(_hit, again * _WARM_TIMES, passes=PASSES)
        self.seen.setdefault(target.name, []).append(values["warm"])
        if self.few is not None:
            if few := self.few.seen.get(target.name):
                values["cost"] = statistics.median(few) / values["warm"]
            resident = target.daemon_bytes()
            if resident is not None:
                values["memory"] = resident / MIB
        return values
