"""One segment file: its bytes, and what its descriptor can do."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import Damaged, NoSpace, QuotaExceeded

if TYPE_CHECKING:
    from dedupfs.core.intervals import IntervalSet
    from dedupfs.core.types import SegmentId

BLOCK_BYTES: Final = 512  # the unit of st_blocks
BLOCK_MAX_BYTES: Final = 64 << 10  # of file systems in use
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


class Segment:
    """An open segment file; its descriptor lives as long as the object."""

    __slots__ = ("_size", "fd", "id", "is_home", "sent", "users", "written")

    def __init__(
        self, segment: SegmentId, fd: int, *, size: int, written: IntervalSet | None, is_home: bool
    ) -> None:
        self.id = segment
        self.fd = fd
        self.users = 0
        self.sent = 0  # how far it was handed to the disk
        self.is_home = is_home
        self.written = written  # None: sealed
        self._size = size

    def __del__(self) -> None:
        os.close(self.fd)

    def run_around(self, offset: int) -> tuple[int, int]:
        """Return the readable range around `offset`; `(offset, offset)` when there is none."""
        if self.written is not None:
            return self.written.run_around(offset)
        return (0, self._size) if offset <= self._size else (offset, offset)

    @property
    def size(self) -> int:
        """The length of the file."""
        return self._size if self.written is None else self.written.stop

    def set_sealed(self, size: int) -> None:
        """Take no more writes; who still has it as a home finds no room."""
        self.written = None
        self._size = size

    def is_free(self, start: int, stop: int) -> bool:
        """Tell whether `start..stop` may still be written."""
        return self.written is not None and not self.written.overlaps(start, stop)

    def read_into(self, offset: int, buffer: memoryview, flags: int = 0) -> int:
        """Fill `buffer` from `offset`; return the bytes read (fewer with RWF_NOWAIT only).

        Raises Damaged when the file ends too early or cannot be read, BlockingIOError when
        RWF_NOWAIT finds nothing in the page cache.
        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self.fd, [buffer[done:]], offset + done, flags)
            except BlockingIOError:
                raise
            except OSError as error:
                if flags and error.errno == errno.EOPNOTSUPP:
                    raise BlockingIOError from error
                raise Damaged(f"segment {self.id:x} at {offset}: {error.strerror}") from error
            if flags:
                return count
            if not count:
                raise Damaged(f"segment {self.id:x} ends before {offset + len(buffer)}")
            done += count
        return done

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; raise Damaged when they are not there."""
        with contextlib.suppress(OSError):
            data = os.pread(self.fd, length, offset)
            if len(data) == length:
                return data
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def is_hole(self, offset: int) -> bool:
        """Tell whether nothing is kept at `offset`, before the end: it reads as zeros."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA) > offset
        except OSError as error:
            if error.errno == errno.ENXIO:
                return True
            raise

    def reads_as_zeros(self, start: int, stop: int) -> bool:
        """Tell whether `start..stop` is a hole but for zeros in its first and last block."""
        at = start
        while at < stop:
            try:
                at = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return True
                raise
            if at >= stop:
                return True
            end = min(os.lseek(self.fd, at, os.SEEK_HOLE), stop)
            if end - at > BLOCK_MAX_BYTES or os.pread(self.fd, end - at, at).strip(b"\0"):
                return False
            at = end
        return True


FULL: Final = {errno.ENOSPC: NoSpace, errno.EDQUOT: QuotaExceeded}


def write_all(fd: int, offset: int, data: memoryview) -> None:
    """Write all of `data`; raise NoSpace, QuotaExceeded, OSError."""
    done = 0
    try:
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)
    except OSError as error:
        if error.errno in FULL:
            raise FULL[error.errno](f"segment: {error.strerror}") from error
        raise


def check_alone(fd: int) -> None:
    """Raise BlockingIOError if the file is open anywhere else, or mapped.

    A file read past us is released at close(2), but its map stays (vma_set_file of mm/util.c).
    A write lease is given only to who has the file alone (check_conflicting_open of fs/locks.c).
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        raise
    except OSError:
        return  # no leases on this file system
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def allocated_bytes(fd: int) -> int:
    """Return what the file takes on disk."""
    return os.fstat(fd).st_blocks * BLOCK_BYTES


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the space of a range back, where the file system can; raise OSError."""
    mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    result = _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    if result:
        code = ctypes.get_errno()
        if code != errno.EOPNOTSUPP:
            raise OSError(code, os.strerror(code))
