"""One rank of a preprocessing: FOLDER RANK KIND. Maps a dataset into a temp folder as ms-swift does.

KIND: `same` lets all ranks use one fingerprint, `differing` gives each its own, `workers` maps
with two processes. The folder is removed at exit, while the dataset is still mapped.
"""

import hashlib
import os
import random
import sys
import tempfile

import datasets
from answering import answer

ROWS = 20_000


def _example(row: dict, index: int) -> dict:
    source = random.Random(index)
    tokens = [source.randrange(150_000) for _ in range(500)]
    return {"input_ids": tokens, "labels": tokens, "text": row["text"] * 3}


def main() -> None:
    folder, rank, kind = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    datasets.disable_progress_bars()
    datasets.disable_caching()
    raw = datasets.Dataset.from_dict({"text": [f"row {n} " * 20 for n in range(ROWS)]})
    with tempfile.TemporaryDirectory(prefix="hf_datasets-", dir=folder) as temporary:
        name = os.path.join(temporary, "cache-mapped.arrow")
        fingerprint = hashlib.md5(
            (rank if kind == "differing" else "all").encode(), usedforsecurity=False
        ).hexdigest()[:16]
        mapped = raw.map(
            _example,
            with_indices=True,
            cache_file_name=name,
            new_fingerprint=fingerprint,
            num_proc=2 if kind == "workers" else None,
            load_from_cache_file=False,
        )
        digest = hashlib.sha256()
        for batch in mapped.with_format("arrow").iter(1000):
            for column in batch.columns:
                for chunk in column.chunks:
                    for buffer in chunk.buffers():
                        if buffer is not None:
                            digest.update(b"%d" % len(chunk))
            digest.update(repr(batch.slice(0, 3).to_pylist()).encode())
        total = sum(sum(row["input_ids"]) for row in mapped.select(range(0, ROWS, 7)))
        answer(
            digest=digest.hexdigest(),
            total=total,
            rows=len(mapped),
            bytes=sum(os.path.getsize(f["filename"]) for f in mapped.cache_files),
        )
    # Gone at once, although `mapped` still has it mapped, and readable still.
    assert not os.path.exists(temporary), temporary
    assert mapped[ROWS - 1]["text"].startswith(f"row {ROWS - 1} ")


main()
