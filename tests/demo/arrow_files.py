"""Arrow files as the `datasets` library writes them: tokenised text in record batches of 1,000 rows.

All ranks write the same rows; only the 16 hex digits of a fingerprint in the schema differ, as they
do between the ranks of a real training run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    from numpy.typing import NDArray

ROWS: Final = 1000  # datasets' writer_batch_size
ROW_BYTES: Final = 11_700  # measured: text, 4 bytes an id, 8 bytes a label
_VOCABULARY: Final = 32_000
_WORD_BYTES: Final = 12
_PROMPT_LABEL: Final = -100
# attention_mask, which is all ones, is left out: so nothing within one rank's files repeats.
_FIELDS: Final = pa.schema({
    "text": pa.string(),
    "input_ids": pa.list_(pa.int32()),
    "labels": pa.list_(pa.int64()),
    "length": pa.int64(),
})  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What each rank writes: `files` files of `batches` record batches."""

    files: int
    batches: int

    @classmethod
    def of_size(cls, size_bytes: int, files: int = 3) -> Plan:
        """Return the plan that comes nearest to `size_bytes` a rank."""
        return cls(files, max(1, round(size_bytes / files / ROWS / ROW_BYTES)))


@dataclass(frozen=True)
class Written:
    """A file as it must be read back."""

    name: str
    size: int
    digest: str


def fingerprint(rank: int, number: int) -> str:
    """Return the 16 hex digits that a rank's file has in its schema."""
    return hashlib.blake2b(f"rank {rank} file {number}".encode(), digest_size=8).hexdigest()


def file_name(number: int) -> str:
    """Return the name of a file, the same in every rank's folder."""
    return f"cache-{number:016x}.arrow"


def schema(rank: int, number: int) -> pa.Schema:
    """Return the schema with the metadata that datasets puts into it."""
    features = {
        name: {"dtype": str(_FIELDS.field(name).type), "_type": "Value"} for name in _FIELDS.names
    }
    info = {"info": {"features": features}, "fingerprint": fingerprint(rank, number)}
    return _FIELDS.with_metadata({"huggingface": json.dumps(info)})


class Text:
    """Draws sentences of a made-up language; the same seed gives the same rows in any process."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.letters = rng.integers(ord("a"), ord("z") + 1, (_VOCABULARY, _WORD_BYTES), np.uint8)
        self.letters[:, 0] = ord(" ")
        self.lengths = rng.integers(3, _WORD_BYTES + 1, _VOCABULARY)

    def batch(self, seed: tuple[int, int]) -> pa.RecordBatch:
        """Return 1,000 rows of 100 to 1,100 tokens, frequent words being frequent."""
        rng = np.random.default_rng(seed)
        tokens = rng.integers(100, 1100, ROWS)
        stops = np.concatenate([[0], np.cumsum(tokens)])
        ids = (_VOCABULARY * rng.random(stops[-1]) ** 2).astype(np.int32)
        labels = ids.astype(np.int64)
        place_in_row = np.arange(len(ids)) - np.repeat(stops[:-1], tokens)
        labels[place_in_row < np.repeat(tokens // 4, tokens)] = _PROMPT_LABEL
        offsets = pa.array(stops, pa.int32())
        return pa.record_batch(
            [
                self._strings(ids, stops),
                pa.ListArray.from_arrays(offsets, pa.array(ids)),
                pa.ListArray.from_arrays(offsets, pa.array(labels)),
                pa.array(tokens, pa.int64()),
            ],
            schema=_FIELDS,
        )

    def _strings(self, ids: NDArray[np.int32], stops: NDArray[np.int64]) -> pa.StringArray:
        lengths = self.lengths[ids]
        letters = self.letters[ids][np.arange(_WORD_BYTES) < lengths[:, None]]
        ends = np.concatenate([[0], np.cumsum(lengths)])[stops].astype(np.int32)
        return pa.StringArray.from_buffers(ROWS, pa.py_buffer(ends), pa.py_buffer(letters))


def batches(plan: Plan, number: int) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of one file."""
    text = Text()
    for batch in range(plan.batches):
        yield text.batch((number, batch))


def write_rank(folder: Path, plan: Plan, rank: int, start: Barrier) -> None:
    """Write one rank's files, in the calls that datasets makes; the work of one process."""
    start.wait()
    for number in range(plan.files):
        # datasets keeps the temporary file open while Arrow writes it through another handle.
        with (
            tempfile.NamedTemporaryFile("wb", dir=folder, delete=False) as kept,
            pa.OSFile(kept.name, "wb") as sink,
            pa.RecordBatchStreamWriter(sink, schema(rank, number)) as writer,
        ):
            for batch in batches(plan, number):
                writer.write_batch(batch)
        path = folder / file_name(number)
        shutil.move(kept.name, path)
        path.chmod(0o644)


class HashingSink:
    """A file for Arrow to write to that keeps only the digest and the size."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b()
        self.size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Take the next bytes."""
        self.hash.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Have nothing to flush."""

    def tell(self) -> int:
        """Return how much was written."""
        return self.size

    def close(self) -> None:
        """Take no more."""
        self.closed = True


def reference(plan: Plan, ranks: int, number: int) -> list[Written]:
    """Return what file `number` of each rank must be, computed without any file system."""
    sinks = [HashingSink() for _ in range(ranks)]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                pa.RecordBatchStreamWriter(pa.PythonFile(sink, "w"), schema(rank, number))
            )
            for rank, sink in enumerate(sinks)
        ]
        for batch in batches(plan, number):
            for writer in writers:
                writer.write_batch(batch)
    return [Written(file_name(number), sink.size, sink.hash.hexdigest()) for sink in sinks]


def send_reference(plan: Plan, ranks: int, number: int, to: Connection) -> None:
    """Send `reference`; the work of one process."""
    to.send(reference(plan, ranks, number))


def read_back(path: Path) -> Written:
    """Return what a file is when it is read through a map, as a training reads it."""
    digest = hashlib.blake2b()
    with pa.memory_map(os.fspath(path)) as mapped:
        size = mapped.size()
        while piece := mapped.read_buffer(1 << 20):
            digest.update(piece)
    return Written(path.name, size, digest.hexdigest())
