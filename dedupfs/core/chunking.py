"""Where chunks end and what they are called: FastCDC 2020 and XXH3-128.

pyfastcdc is used for it: measured at 5.5 GB/s on 1 MiB buffers against 2.8 GB/s of `fastcdc`
(one core), it needs no other package, and its chunks resynchronise behind inserted bytes alike.
Its parameters are part of the format: other ones would find nothing in an old store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import xxhash
from pyfastcdc import FastCDC

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_MIN_BYTES: Final = 16 * 1024
CHUNK_AVERAGE_BYTES: Final = 64 * 1024
CHUNK_MAX_BYTES: Final = 256 * 1024

_cutter = FastCDC(avg_size=CHUNK_AVERAGE_BYTES, min_size=CHUNK_MIN_BYTES, max_size=CHUNK_MAX_BYTES)


def cut(data: bytes | memoryview) -> Iterator[int]:
    """Yield the lengths of the chunks of `data`; the last may end where the data does."""
    for chunk in _cutter.cut_buf(data):
        yield chunk.length


def fingerprint(data: bytes | memoryview) -> bytes:
    """Return the 16-byte fingerprint of `data`: a hint, bytes are compared before sharing."""
    return xxhash.xxh3_128_digest(data)
