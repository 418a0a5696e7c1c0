"""A file that pyarrow writes: tokenised text in record batches of 1,000 rows, as `datasets` does."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dedupfs.bench.figures import Figure, Kind
from dedupfs.bench.job import Need
from dedupfs.bench.system import seconds
from dedupfs.bench.writing import MIB, sync

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dedupfs.bench.job import Settings
    from dedupfs.bench.targets import Target

_ROWS: Final = 1000  # datasets' writer_batch_size
_TOKENS: Final = 900  # of a row
_TOKEN_BYTES: Final = 4 + 8  # input_ids are int32, labels int64
_VOCABULARY: Final = 32_000


@dataclass(frozen=True)
class Arrow:
    """Writes a table, then the same table again, as the next rank does."""

    settings: Settings
    name: str = "arrow"

    @property
    def about(self) -> str:
        return f"pyarrow writes {self.settings.size} of tokenised text, then the same once more"

    def figures(self) -> Sequence[Figure]:
        return [
            Figure("new", "pyarrow writes a file, to close", "MiB/s", Kind.RATE, headline=True),
            Figure(
                "again",
                "pyarrow writes the same again, to close",
                "MiB/s",
                Kind.RATE,
                headline=True,
            ),
            Figure("sync", "pyarrow writes both, to fsync", "MiB/s", Kind.RATE),
        ]

    def need(self) -> Need:
        return Need(run_bytes=2 * self.settings.size_bytes + self._batch_bytes)

    @property
    def _batch_bytes(self) -> int:
        return _ROWS * _TOKENS * _TOKEN_BYTES

    def skipped(self) -> str | None:
        if importlib.util.find_spec("pyarrow") is None:
            return "pyarrow is not installed (pip install pyarrow)"
        return None

    def setup(self, target: Target) -> None:
        del target

    def run(self, target: Target) -> Mapping[str, float]:
        batches = [_batch() for _ in range(max(1, self.settings.size_bytes // self._batch_bytes))]
        first, second = target.work / "first.arrow", target.work / "second.arrow"
        new_s = seconds(lambda: _write(first, batches))
        again_s = seconds(lambda: _write(second, batches))
        sync_s = seconds(lambda: sync(first)) + seconds(lambda: sync(second))
        mib = first.stat().st_size / MIB
        first.unlink()
        second.unlink()
        return {
            "new": mib / new_s,
            "again": mib / again_s,
            "sync": 2 * mib / (new_s + again_s + sync_s),
        }


def _batch() -> object:
    import pyarrow as pa  # noqa: PLC0415 - optional

    rng = np.random.default_rng()
    ids = (_VOCABULARY * rng.random(_ROWS * _TOKENS) ** 2).astype(np.int32)
    offsets = pa.array(np.arange(0, len(ids) + 1, _TOKENS, dtype=np.int32))
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(ids)),
        pa.ListArray.from_arrays(offsets, pa.array(ids.astype(np.int64))),
    ]
    return pa.record_batch(columns, schema=_schema())


def _schema() -> object:
    import pyarrow as pa  # noqa: PLC0415

    lists = {"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int64())}
    return pa.schema(lists)


def _write(path: Path, batches: Sequence[object]) -> None:
    import pyarrow as pa  # noqa: PLC0415

    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.RecordBatchStreamWriter(sink, _schema()) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
