"""What a job is, what it is given, and the files that several jobs use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from dedupfs.bench.writing import MIB, PAGE_BYTES, in_calls, sync, write_new

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dedupfs.bench.figures import Figure
    from dedupfs.bench.targets import Target

_NAME: Final = "item-{:07d}-of-the-cache.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """How large a bench is. `cold`: caches can be emptied, so cold figures are measured."""

    size_bytes: int
    ranks: int
    entries: int
    cold: bool

    @property
    def size(self) -> str:
        """The size of a large file, for people."""
        mib = self.size_bytes / MIB
        return f"{mib / 1024:g} GiB" if mib >= 1024 and mib % 512 == 0 else f"{mib:g} MiB"  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class Need:
    """Room for a job: what stays until the end, what one round takes for itself, and files."""

    kept_bytes: int = 0
    run_bytes: int = 0
    files: int = 0


class Job(Protocol):
    """Prepares a directory once, then does one round and returns its figures."""

    @property
    def name(self) -> str:
        """What `--jobs` calls it."""

    @property
    def about(self) -> str:
        """What it does, in a line."""

    def figures(self) -> Sequence[Figure]:
        """Return what it measures."""

    def need(self) -> Need:
        """Return the room it needs."""

    def skipped(self) -> str | None:
        """Return why it cannot be done here, if it cannot."""

    def setup(self, target: Target) -> None:
        """Make what `run` needs; must be quick when it is there already."""

    def run(self, target: Target) -> Mapping[str, float]:
        """Do it once; leave only what `setup` made. Return values by the figures' keys."""


def fresh(size_bytes: int) -> bytes:
    """Return random bytes that nobody has seen, in memory that is faulted in."""
    return np.random.default_rng().bytes(size_bytes)


def original(target: Target, size_bytes: int, rank: int = 0) -> Path:
    """Return a rank's file; those of all ranks hold the same random bytes. Made when missing."""
    path = target.work / f"rank{rank}" / f"original-{size_bytes}"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        content = original(target, size_bytes).read_bytes() if rank else fresh(size_bytes)
        write_new(path, in_calls(content))
        sync(path)
    return path


def small_files(folder: Path, count: int) -> list[str]:
    """Return the paths of `count` new, different files of 4 KiB in `folder`, which must be new."""
    folder.mkdir()
    paths = names(folder, count)
    for start in range(0, count, MIB // PAGE_BYTES):
        some = paths[start : start + MIB // PAGE_BYTES]
        for path, content in zip(some, contents(len(some)), strict=True):
            write_new(path, [content])
    return paths


def names(folder: Path, count: int) -> list[str]:
    """Return the paths of the small files of a folder."""
    return [os.path.join(folder, _NAME.format(number)) for number in range(count)]


def contents(count: int) -> list[memoryview]:
    """Return `count` different pages."""
    return list(in_calls(fresh(count * PAGE_BYTES), PAGE_BYTES))
