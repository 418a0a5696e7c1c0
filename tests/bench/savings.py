"""What is saved: the inputs of the table in the README, and how their ratio is measured."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MIB: Final = 1 << 20
_WRITE_BYTES: Final = 256 * 1024
_SETTLE_LIMIT_S: Final = 60.0


@dataclass(frozen=True)
class Size:
    """How large the inputs are made: bytes of a rank's file, and small files of a folder."""

    rank_bytes: int = 256 * MIB
    small_files: int = 5000


def content(seed: int, size: int) -> bytes:
    """Return `size` bytes that share nothing with those of another seed."""
    return np.random.default_rng([20_261_121, seed]).bytes(size)


def write(path: Path, data: bytes) -> None:
    """Write a new file in calls of 256 KiB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    view = memoryview(data)
    with path.open("xb", buffering=0) as file:
        for at in range(0, len(data), _WRITE_BYTES):
            file.write(view[at : at + _WRITE_BYTES])


def four_identical(folder: Path, size: Size) -> None:
    data = content(1, size.rank_bytes)
    for rank in range(4):
        write(folder / f"rank{rank}" / "a.arrow", data)


def four_with_other_headers(folder: Path, size: Size) -> None:
    """Two files a rank, nothing of the first 4 KiB equal."""
    for part in range(2):
        data = content(10 + part, size.rank_bytes // 2)
        for rank in range(4):
            header = content(20 + 4 * part + rank, 4096)
            write(folder / f"rank{rank}" / f"{part}.arrow", header + data[4096:])


def one_inserts_at_the_front(folder: Path, size: Size) -> None:
    data = content(30, size.rank_bytes)
    write(folder / "rank0" / "a.arrow", data)
    write(folder / "rank1" / "a.arrow", content(31, 1000) + data)


def one_byte_changed_every_8_mib(folder: Path, size: Size) -> None:
    data = bytearray(content(40, size.rank_bytes))
    write(folder / "rank0" / "a.arrow", bytes(data))
    for at in range(3 * MIB + 1234, len(data), 8 * MIB):
        data[at] ^= 0xFF
    write(folder / "rank1" / "a.arrow", bytes(data))


def many_small_files(folder: Path, size: Size) -> None:
    """Sizes are spread evenly over 4..16 KiB, bytes not pages."""
    lengths = np.random.default_rng(50).integers(4096, 16384, size.small_files, endpoint=True)
    for rank in range(4):
        for number, length in enumerate(lengths):
            write(folder / f"rank{rank}" / f"{number}.json", content(1000 + number, int(length)))


def random_bytes(folder: Path, size: Size) -> None:
    write(folder / "rank0" / "a.bin", content(60, size.rank_bytes))


@dataclass(frozen=True)
class Case:
    """An input, and the ratio (logical / allocated bytes) it must reach."""

    name: str
    make: Callable[[Path, Size], None]
    at_least: float
    with_index: bool = False  # the index's growth counts as allocated


CASES: Final = (
    Case("4 identical ranks", four_identical, 3.98),
    Case("4 ranks, first 4 KiB of each file differ", four_with_other_headers, 3.95),
    Case("2 ranks, one inserts 1,000 bytes at the front", one_inserts_at_the_front, 1.95),
    Case("2 ranks, one byte changed per 8 MiB", one_byte_changed_every_8_mib, 1.98),
    Case("4 folders of the same files of 4-16 KiB", many_small_files, 3.6),
    Case("random bytes, index included", random_bytes, 1 / 1.02, with_index=True),
)


@dataclass(frozen=True)
class Saving:
    """What a case took: bytes its files have, and bytes that the store grew by."""

    case: Case
    logical_bytes: int
    allocated_bytes: int

    @property
    def ratio(self) -> float:
        """Logical to allocated bytes."""
        return self.logical_bytes / max(self.allocated_bytes, 1)

    @property
    def reached(self) -> bool:
        """Whether the ratio is what the case asks for."""
        return self.ratio >= self.case.at_least


def settled(status: Callable[[], Mapping[str, object]]) -> dict[str, int]:
    """Return the status's integers once everything is written and all freed space is given back."""
    os.sync()
    _checkpoint(str(status()["mountpoint"]))
    end = time.monotonic() + _SETTLE_LIMIT_S
    before: dict[str, int] = {}
    now = _numbers(status())
    while time.monotonic() < end and not (now["pending_free_bytes"] == 0 and _same(before, now)):
        time.sleep(0.1)
        before, now = now, _numbers(status())
    return now


def _checkpoint(mountpoint: str) -> None:
    """Have a checkpoint now, which freed space waits for, instead of in a few seconds."""
    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _same(before: Mapping[str, int], now: Mapping[str, int]) -> bool:
    return all(before.get(key) == now[key] for key in ("logical_bytes", "allocated_bytes"))


def _numbers(document: Mapping[str, object]) -> dict[str, int]:
    return {key: value for key, value in document.items() if isinstance(value, int)}


def measure(
    case: Case, folder: Path, size: Size, status: Callable[[], Mapping[str, object]]
) -> Saving:
    """Make the input in a new folder, and remove it again; the store is used by nobody else."""
    top = folder / "saving"
    top.mkdir()
    before = settled(status)
    case.make(top, size)
    after = settled(status)
    shutil.rmtree(top)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    index = grown["index_bytes"] if case.with_index else 0
    return Saving(case, grown["logical_bytes"], grown["allocated_bytes"] + index)


def segments_on_disk(store: Path) -> int:
    """Return the bytes that the store's segments take, as `du` counts them."""
    return sum(_blocks(path) for path in _files(store / "segments")) * 512


def _files(folder: Path) -> Iterator[str]:
    for path, _folders, names in os.walk(folder):
        yield from (os.path.join(path, name) for name in names)


def _blocks(path: str) -> int:
    try:
        return os.stat(path).st_blocks
    except FileNotFoundError:  # removed while we look
        return 0
