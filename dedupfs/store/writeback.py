"""Sending the bytes of growing segments to the disk before somebody waits for them at fsync.

It only starts the writing. What goes wrong is the business of fdatasync on the same descriptor,
which is told of every failed write-back since the file was opened (Documentation/core-api/errseq).
Small segments are left to the checkpoint: a file that lives for seconds need never reach the disk.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.types import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.store.segment_file import Segment

# Measured: smaller pieces cost more calls, with larger ones the last is waited for.
STEP_BYTES: Final = 16 << 20
_SYNC_FILE_RANGE_WRITE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


class _Range(NamedTuple):
    segment: Segment
    start: int
    stop: int


class WriteBack:
    """Ranges of segments that are to be sent to the disk."""

    def __init__(self) -> None:
        self._ranges: list[_Range] = []
        self.wake: Callable[[], object] = lambda: None  # called when there is something to `run`

    def note(self, segment: Segment, written: int) -> None:
        """`segment` is written up to `written`."""
        if written - segment.sent >= STEP_BYTES:
            stop = written - written % PAGE_BYTES
            self._ranges.append(_Range(segment, segment.sent, stop))
            segment.sent = stop
            self.wake()

    @property
    def is_wanted(self) -> bool:
        """Whether there is something to `run`."""
        return bool(self._ranges)

    def run(self) -> None:
        """Start writing what was noted. May block, and may run in a worker thread."""
        while self._ranges:
            segment, start, stop = self._ranges.pop(0)
            _libc.sync_file_range(
                segment.fd,
                ctypes.c_int64(start),
                ctypes.c_int64(stop - start),
                _SYNC_FILE_RANGE_WRITE,
            )
