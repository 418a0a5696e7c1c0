"""One process that writes or reads one large file from its start to its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dedupfs.bench.figures import Figure, Kind
from dedupfs.bench.job import Need, fresh, original
from dedupfs.bench.system import PASSES, drop_caches, seconds
from dedupfs.bench.writing import MIB, in_calls, sync, write_new

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dedupfs.bench.job import Settings
    from dedupfs.bench.targets import Target

_TENSOR_BYTES: Final = 16 * MIB
_RECORD: Final = (64, 37, _TENSOR_BYTES, 16)  # header, padding, content, descriptor


def _timed(path: Path, pieces: Sequence[memoryview]) -> Mapping[str, float]:
    mib = sum(map(len, pieces)) / MIB
    close_s = seconds(lambda: write_new(path, pieces))
    sync_s = close_s + seconds(lambda: sync(path))
    path.unlink()
    return {"close": mib / close_s, "sync": mib / sync_s}


@dataclass(frozen=True)
class SequentialWrite:
    """Writes in calls of 1 MiB; `duplicate`: what the directory holds already."""

    settings: Settings
    duplicate: bool

    @property
    def name(self) -> str:
        return "write-duplicate" if self.duplicate else "write-new"

    @property
    def about(self) -> str:
        which = "that another file holds" if self.duplicate else "that are new"
        return f"one process writes {self.settings.size} {which}, in calls of 1 MiB"

    def figures(self) -> Sequence[Figure]:
        what = f"{'duplicate' if self.duplicate else 'new'} 1 MiB writes"
        return [
            Figure("close", f"{what}, to close", "MiB/s", Kind.RATE, headline=True),
            Figure("sync", f"{what}, to fsync", "MiB/s", Kind.RATE, headline=not self.duplicate),
        ]

    def need(self) -> Need:
        size = self.settings.size_bytes
        return Need(kept_bytes=size if self.duplicate else 0, run_bytes=size)

    def skipped(self) -> str | None:
        return None

    def setup(self, target: Target) -> None:
        if self.duplicate:
            original(target, self.settings.size_bytes)

    def run(self, target: Target) -> Mapping[str, float]:
        size = self.settings.size_bytes
        data = original(target, size).read_bytes() if self.duplicate else fresh(size)
        return _timed(target.work / "written", in_calls(data))


@dataclass(frozen=True)
class Tensors:
    """Writes as torch.save does: each tensor in one call, small calls between them."""

    settings: Settings
    name: str = "tensors"

    @property
    def about(self) -> str:
        return (
            f"one process saves {self.settings.size} of tensors as torch.save does, 16 MiB a call"
        )

    def figures(self) -> Sequence[Figure]:
        what = "new tensors, as torch.save writes"
        return [
            Figure("close", f"{what}, to close", "MiB/s", Kind.RATE, headline=True),
            Figure("sync", f"{what}, to fsync", "MiB/s", Kind.RATE),
        ]

    def need(self) -> Need:
        return Need(run_bytes=self.settings.size_bytes + _TENSOR_BYTES)

    def skipped(self) -> str | None:
        return None

    def setup(self, target: Target) -> None:
        del target

    def run(self, target: Target) -> Mapping[str, float]:
        data = memoryview(fresh(self.settings.size_bytes))
        pieces, at = [], 0
        while at < len(data):
            for length in _RECORD:
                pieces.append(data[at : at + length])
                at += length
        return _timed(target.work / "tensors", [piece for piece in pieces if piece])


@dataclass(frozen=True)
class SequentialRead:
    """Reads a file in calls of 1 MiB."""

    settings: Settings
    name: str = "read"

    @property
    def about(self) -> str:
        return (
            f"one process reads {self.settings.size} in calls of 1 MiB, from disk and from memory"
        )

    def figures(self) -> Sequence[Figure]:
        cold = Figure("cold", "sequential read, cold", "MiB/s", Kind.RATE, headline=True)
        warm = Figure("warm", "sequential read, warm", "MiB/s", Kind.RATE, headline=True)
        return [cold, warm] if self.settings.cold else [warm]

    def need(self) -> Need:
        return Need(kept_bytes=self.settings.size_bytes)

    def skipped(self) -> str | None:
        return None

    def setup(self, target: Target) -> None:
        original(target, self.settings.size_bytes)

    def run(self, target: Target) -> Mapping[str, float]:
        path = original(target, self.settings.size_bytes)
        mib = self.settings.size_bytes / MIB
        buffer = bytearray(fresh(MIB))  # faulted in, unlike zeros
        values = {}
        if self.settings.cold:
            drop_caches()
            values["cold"] = mib / seconds(lambda: _read(path, buffer))
        _read(path, buffer)
        return values | {"warm": mib / seconds(lambda: _read(path, buffer), passes=PASSES)}


def _read(path: Path, buffer: bytearray) -> None:
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
