"""Random reads of 4 KiB through maps, as a training reads its Arrow files."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dedupfs.bench.figures import Figure, Kind
from dedupfs.bench.job import Need, original
from dedupfs.bench.system import PASSES, drop_caches, page_cache_bytes, seconds
from dedupfs.bench.writing import MIB, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from dedupfs.bench.job import Settings
    from dedupfs.bench.targets import Target

_COLD_READS: Final = 2_000
_NEW_READS: Final = 20_000
_WARM_READS: Final = 100_000
_BATCH: Final = 250  # pages copied by one call, so that what is measured is no Python


class _Maps:
    """The files' pages; one array of rows of 4 KiB for each file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._maps = []
        for path in paths:
            with path.open("rb") as file:
                flags = {"flags": mmap.MAP_PRIVATE, "prot": mmap.PROT_READ}
                self._maps.append(mmap.mmap(file.fileno(), 0, **flags))
        self._pages = [_rows(mapped) for mapped in self._maps]
        self._buffer = np.ones((_BATCH, PAGE_BYTES), np.uint8)  # faulted in

    def places(self, count: int) -> list[tuple[int, NDArray[np.int64]]]:
        """Return batches of random pages, the files taking turns."""
        rng = np.random.default_rng()
        return [
            (turn % len(self._pages), rng.integers(0, len(self._pages[0]), _BATCH))
            for turn in range(count // _BATCH)
        ]

    def copy(self, places: Sequence[tuple[int, NDArray[np.int64]]]) -> None:
        """Copy pages out."""
        for number, rows in places:
            # mode: any other makes numpy copy into a buffer of its own first
            self._pages[number].take(rows, axis=0, out=self._buffer, mode="clip")

    def touch(self) -> None:
        """Touch every page once, in order."""
        for pages in self._pages:
            pages[:, 0].max()

    def close(self) -> None:
        """Unmap."""
        self._pages.clear()
        for mapped in self._maps:
            mapped.close()


def _rows(mapped: mmap.mmap) -> NDArray[np.uint8]:
    whole = len(mapped) // PAGE_BYTES
    return np.frombuffer(mapped, np.uint8, whole * PAGE_BYTES).reshape(whole, PAGE_BYTES)


@dataclass(frozen=True)
class MappedRead:
    """Reads one file, or as many equal files as there are ranks."""

    settings: Settings
    files: int

    @property
    def name(self) -> str:
        return "mmap" if self.files == 1 else "mmap-ranks"

    @property
    def about(self) -> str:
        which = (
            f"a file of {self.settings.size}" if self.files == 1 else f"{self.files} equal files"
        )
        return f"random 4 KiB reads through maps of {which}, and what they take of the page cache"

    def figures(self) -> Sequence[Figure]:
        one = self.files == 1
        which = "one file" if one else f"{self.files} equal files"
        what = f"random 4 KiB mmap reads of {which}"
        cold = [
            Figure("cold", f"{what}, cold", "reads/s", Kind.RATE, headline=True),
            Figure(
                "cache",
                f"page cache after reading {which} of {self.settings.size}",
                "MiB",
                Kind.SPACE,
                headline=not one,
            ),
        ]
        return [
            *(cold if self.settings.cold else []),
            Figure("new", f"{what}, warm, map just made", "reads/s", Kind.RATE),
            Figure("warm", f"{what}, warm", "reads/s", Kind.RATE, headline=one),
        ]

    def need(self) -> Need:
        return Need(kept_bytes=self.settings.size_bytes * self.files)

    def skipped(self) -> str | None:
        return None

    def setup(self, target: Target) -> None:
        self._paths(target)

    def _paths(self, target: Target) -> list[Path]:
        return [original(target, self.settings.size_bytes, rank) for rank in range(self.files)]

    def run(self, target: Target) -> Mapping[str, float]:
        paths = self._paths(target)
        values = self._cold(paths) if self.settings.cold else {}
        maps = _Maps(paths)
        maps.touch()
        maps.close()
        maps = _Maps(paths)
        # Page faults of cached pages; and then none: memory, whoever is behind the map.
        values["new"] = _rate(maps, _NEW_READS)
        maps.touch()
        values["warm"] = _rate(maps, _WARM_READS, passes=PASSES)
        maps.close()
        return values

    def _cold(self, paths: Sequence[Path]) -> dict[str, float]:
        drop_caches()
        before = page_cache_bytes()
        maps = _Maps(paths)
        rate = _rate(maps, _COLD_READS)
        maps.touch()
        grown = page_cache_bytes() - before
        maps.close()
        return {"cold": rate, "cache": grown / MIB}


def _rate(maps: _Maps, count: int, *, passes: int = 1) -> float:
    places = maps.places(count)
    return count / seconds(lambda: maps.copy(places), passes=passes)
