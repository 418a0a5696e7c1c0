"""Files of several extents as one file that can be read past the index, made of reflinks.

XFS and btrfs let two files share blocks. A file whose bytes lie in several segments, or in a part
of one, is put together by cloning its extents: at no space, but for the blocks at their edges,
which are copied. The result is a cache: it has no name, no row of the index knows it, and it is let
go when the file changes or goes. So nothing else counts or looks after it: the extents keep
pointing at the segments, where writers find them, and a crash leaves nothing behind.

Its pages are its own: unlike a segment's, they are not shared with other files in the page cache.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.errors import FsError
from dedupfs.core.format import pair_key, unpack_extent

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.core.types import Ino
    from dedupfs.store.index import Index
    from dedupfs.store.segment_file import Segment
    from dedupfs.store.segments import Segments
    from dedupfs.store.txn import Txn

_FICLONE: Final = 0x40049409  # include/uapi/linux/fs.h
_FICLONERANGE: Final = 0x4020940D
_CLONE_RANGE: Final = struct.Struct("qQQQ")  # source fd, offset, length, target offset
# Measured: 5 us an extent on XFS, 3 on btrfs.
_EXTENTS_MAX: Final = 4096
# A smaller file costs more to put together than to read through the daemon.
_SIZE_MIN: Final = 128 << 10
# What is copied takes space that no counter knows.
_COPIED_MIN: Final = 64 << 10
_COPIED_SHARE: Final = 128
# Dirty pages are written back before they are cloned: so much goes between two looks at `is_stale`.
_SLICE_BYTES: Final = 64 << 20
_KEPT_MAX: Final = 1024
_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EISDIR, errno.ENOSYS}


class Reflink:
    """An unnamed file with the bytes of a mounted one; both go with the object."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size

    def __del__(self) -> None:
        os.close(self.fd)

    def close(self) -> None:
        """Do nothing: whoever still holds the object keeps the file."""


class _Piece(NamedTuple):
    segment: Segment
    offset: int  # in the segment
    at: int  # in the file
    length: int


class Plan:
    """How a file is put together. Bytes of a segment never change, so it need not be held up."""

    def __init__(self, ino: Ino, target: Reflink) -> None:
        self.ino = ino
        self.is_stale = False  # the file has changed: what `run` returns is of no use
        self.cloned: list[_Piece] = []
        self.copied: list[_Piece] = []
        self._target = target

    def add(self, piece: _Piece, block_bytes: int) -> None:
        """Clone what is whole blocks in segment and file, copy the rest."""
        stop = piece.at + piece.length
        low, high = piece.at + -piece.at % block_bytes, stop - stop % block_bytes
        if (piece.offset - piece.at) % block_bytes or low >= high:
            self.copied.append(piece)
            return
        shift = piece.offset - piece.at
        for start in range(low, high, _SLICE_BYTES):
            length = min(_SLICE_BYTES, high - start)
            self.cloned.append(_Piece(piece.segment, start + shift, start, length))
        for start, end in ((piece.at, low), (high, stop)):
            if start < end:
                self.copied.append(_Piece(piece.segment, start + shift, start, end - start))

    def run(self) -> Reflink | None:
        """Put it together; None when the plan went stale. Blocks: dirty pages are written first.

        May run in a worker thread. Raises OSError, Damaged.
        """
        fd = self._target.fd
        os.ftruncate(fd, self._target.size)
        for piece in self.cloned:
            if self.is_stale:
                return None
            argument = _CLONE_RANGE.pack(piece.segment.fd, piece.offset, piece.length, piece.at)
            fcntl.ioctl(fd, _FICLONERANGE, argument)
        for piece in self.copied:
            data, done = piece.segment.read(piece.offset, piece.length), 0
            while done < piece.length:
                done += os.pwrite(fd, data[done:], piece.at + done)
        return self._target


class Reflinks:
    """Those of a store; `why_not` says why there are none, "" where there may be."""

    def __init__(self, index: Index, segments: Segments) -> None:
        self._index = index
        self._segments = segments
        self._kept: OrderedDict[Ino, Reflink] = OrderedDict()
        self._plans: dict[Ino, Plan] = {}
        self._repairs = segments.repairs
        self._kept_max = max(1, min(_KEPT_MAX, segments.cached_max // 4))
        self._block_bytes = os.statvfs(segments.folder).f_bsize
        self.why_not = self._try()

    def _try(self) -> str:
        try:
            one, two = (Reflink(self._segments.unnamed(), 0) for _ in range(2))
            fcntl.ioctl(one.fd, _FICLONE, two.fd)
        except (OSError, FsError) as error:
            if isinstance(error, FsError) or error.errno not in _UNSUPPORTED:
                return f"reflinks fail: {error}"
            return f"no reflinks on {_file_system(self._segments.folder)}"
        return ""

    def find(self, ino: Ino, size: int) -> Reflink | None:
        """Return what was kept for the file as it is now, of `size` bytes, if anything."""
        self._drop_old()
        found = self._kept.get(ino)
        if found is None or found.size != size:  # a file may grow by a hole alone
            return None
        self._kept.move_to_end(ino)
        return found

    def plan(self, txn: Txn, ino: Ino, size: int) -> Plan | None:
        """Return how to put a file of `size` bytes together, None where that cannot be or pay.

        `keep` must follow. Raises Damaged, NoSpace, OSError.
        """
        if self.why_not or size < _SIZE_MIN or self.find(ino, size) or ino in self._plans:
            return None
        rows = txn.scan("extents", pair_key(ino, 0), pair_key(ino + 1, 0))
        extents = [unpack_extent(*row) for row in itertools.islice(rows, _EXTENTS_MAX + 1)]
        if not extents or len(extents) > _EXTENTS_MAX:
            return None
        plan = Plan(ino, Reflink(self._segments.unnamed(), size))
        for extent in extents:
            segment = self._segments.get(txn, extent.segment)
            piece = _Piece(segment, extent.segment_offset, extent.offset, extent.length)
            plan.add(piece, self._block_bytes)
        if sum(piece.length for piece in plan.copied) > max(_COPIED_MIN, size // _COPIED_SHARE):
            return None
        self._plans[ino] = plan
        return plan

    def keep(self, plan: Plan, made: Reflink | None) -> None:
        """Let the file be found from now on, unless it has changed meanwhile or was not `made`."""
        self._drop_old()
        del self._plans[plan.ino]
        if made is None or plan.is_stale:
            return
        self._kept[plan.ino] = made
        if len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)

    def forget(self, ino: Ino) -> None:
        """Let go of what a file was, before it changes or goes; readers keep what they have."""
        self._kept.pop(ino, None)
        plan = self._plans.get(ino)
        if plan is not None:
            plan.is_stale = True

    def _drop_old(self) -> None:
        """Forget all when stored bytes were put right: the blocks that were wrong may be ours."""
        if self._repairs != self._segments.repairs:
            self._repairs = self._segments.repairs
            for ino in [*self._kept, *self._plans]:
                self.forget(ino)


def _file_system(path: Path) -> str:
    """Return the type of the file system at `path`, as mount(8) calls it."""
    device = path.stat().st_dev
    want = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as lines:  # noqa: PTH123 - not a file of the store
        for line in lines:
            fields, _, rest = line.partition(" - ")
            if fields.split()[2] == want:
                return rest.split()[0]
    return "this file system"
