"""How much of two byte strings is equal, and where zeros run. Pure; numpy does the work.

Offsets are into the given strings. `bytes` are compared with `==`, numpy arrays where the place of
a difference is wanted; memoryviews of bytes never (measured ten times slower).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from dedupfs.core.types import PAGE_BYTES

_HALF_PAGE_BYTES: Final = PAGE_BYTES // 2
_HALF_PAGE: Final = bytes(_HALF_PAGE_BYTES)
_ZEROS: Final = bytes(64 * 1024)


def equal_prefix(ours: bytes, theirs: bytes) -> int:
    """Return how many leading bytes are equal."""
    length = min(len(ours), len(theirs))
    left = np.frombuffer(ours, np.uint8, length)
    right = np.frombuffer(theirs, np.uint8, length)
    unequal = left != right
    at = int(unequal.argmax()) if length else 0
    return at if length and unequal[at] else length


def equal_suffix(ours: bytes, theirs: bytes) -> int:
    """Return how many trailing bytes are equal."""
    length = min(len(ours), len(theirs))
    return equal_prefix(ours[len(ours) - length :][::-1], theirs[len(theirs) - length :][::-1])


def equal_runs(ours: bytes, theirs: bytes, first_page: int) -> list[tuple[int, int, bool]]:
    """Return `(start, stop, equal)` runs of pages over two strings of one length.

    `first_page` is the length of the first, possibly partial page, so that runs end at page
    boundaries of the file; neighbouring runs differ in `equal`.
    """
    length = len(ours)
    edges = [0, *range(first_page or PAGE_BYTES, length, PAGE_BYTES)]
    unequal = np.frombuffer(ours, np.uint8) != np.frombuffer(theirs, np.uint8)
    differs = np.logical_or.reduceat(unequal, edges)
    runs: list[tuple[int, int, bool]] = []
    for start, stop, different in zip(edges, [*edges[1:], length], differs.tolist(), strict=True):
        if runs and runs[-1][2] is not different:
            runs[-1] = (runs[-1][0], stop, not different)
        else:
            runs.append((start, stop, not different))
    return runs


def zero_run(data: bytes, start: int) -> tuple[int, int]:
    """Return the first run of at least a page of zeros at or after `start`.

    `(len(data), len(data))` when there is none. A run of a page holds a whole half page at a
    multiple of its size: so one byte of each half page is looked at first (3 us a MiB of random
    bytes, where `bytes.find` takes 15 to 150).
    """
    length = len(data)
    firsts = data[::_HALF_PAGE_BYTES]
    at = firsts.find(0, -(-start // _HALF_PAGE_BYTES))
    while at >= 0:
        middle = at * _HALF_PAGE_BYTES
        if data.startswith(_HALF_PAGE, middle):
            before = data[max(start, middle - PAGE_BYTES) : middle]
            first = middle - (len(before) - len(before.rstrip(b"\0")))
            stop = _zeros_stop(data, middle + _HALF_PAGE_BYTES)
            if stop - first >= PAGE_BYTES:
                return first, stop
        at = firsts.find(0, at + 1)
    return length, length


def _zeros_stop(data: bytes, start: int) -> int:
    while data.startswith(_ZEROS, start):
        start += len(_ZEROS)
    piece = data[start : start + len(_ZEROS)]
    return start + len(piece) - len(piece.lstrip(b"\0"))
