"""Random work on a few files against bytearrays that must always agree: after fsx of LTP.

Files share content on purpose: pieces of one are written into another, at any shift, so that what
the store shares is written over, cut and punched through one file while the others must keep it.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import mmap
import os
import random
from typing import TYPE_CHECKING, Final

from mount.conformance import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE: Final = 4096
LIMIT_BYTES: Final = 3 << 20
_REMEMBERED: Final = 60


class Mismatch(AssertionError):
    """The file has other bytes than were written; the text tells how to come there again."""


class Subject:
    """One file and what it must hold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shadow = bytearray()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def reopen(self, flags: int = 0) -> None:
        """Close and open again, with these flags too."""
        os.close(self.fd)
        self.fd = -1
        self.fd = os.open(self.path, os.O_RDWR | flags)


class Exerciser:
    """Random operations from a seed."""

    def __init__(self, folder: Path, seed: int, *, files: int = 3) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._names = 0
        self._folder = folder
        self._log: collections.deque[str] = collections.deque(maxlen=_REMEMBERED)
        self._unsupported: set[str] = set()
        self._subjects = [Subject(self._fresh_path()) for _ in range(files)]
        self._turns: tuple[tuple[int, Callable[[Subject], None]], ...] = (
            (10, self._write), (6, self._copy), (4, self._append), (4, self._truncate), (10, self._read),
            (4, self._map_read), (4, self._map_write), (3, self._direct_read), (3, self._direct_write),
            (3, self._punch), (2, self._zero_range), (2, self._reopen), (2, self._fsync), (3, self._forget),
            (1, self._rename), (1, self._replace), (1, self._relink), (1, self._write_unlinked),
        )  # fmt: skip

    def run(self, turns: int) -> None:
        """Do so many operations, then look at all bytes."""
        weights = [weight for weight, _ in self._turns]
        for _ in range(turns):
            ((_, operation),) = self._random.choices(self._turns, weights)
            subject = self._random.choice(self._subjects)
            operation(subject)
        self.check()

    def check(self) -> None:
        """Compare every file as a whole, by its name."""
        for subject in self._subjects:
            self._compare(subject, subject.path.read_bytes(), 0, "whole file")

    def close(self) -> None:
        """Close all files that are open."""
        for subject in self._subjects:
            if subject.fd >= 0:
                os.close(subject.fd)
            subject.fd = -1

    def open(self) -> None:
        """Open all files again, after close."""
        self._note("remounted")
        for subject in self._subjects:
            subject.fd = os.open(subject.path, os.O_RDWR)

    # ---- operations

    def _write(self, it: Subject) -> None:
        offset, data = self._offset(it), self._data()
        data = data[: LIMIT_BYTES - offset]
        self._note(f"{it.path.name}: write {offset} {len(data)}")
        self._put(it, offset, data)

    def _copy(self, it: Subject) -> None:
        """Write what another file has: the same bytes, mostly at another offset."""
        source = self._random.choice(self._subjects)
        start = self._random.randrange(len(source.shadow) + 1)
        data = bytes(source.shadow[start : start + self._length(1 << 19)])
        offset = start if self._random.random() < 0.4 else self._offset(it)
        data = data[: max(0, LIMIT_BYTES - offset)]
        self._note(
            f"{it.path.name}: write {offset} what {source.path.name} has at {start} {len(data)}"
        )
        self._put(it, offset, data)

    def _append(self, it: Subject) -> None:
        data = self._data()[: LIMIT_BYTES - len(it.shadow)]
        self._note(f"{it.path.name}: append {len(data)}")
        fd = os.open(it.path, os.O_WRONLY | os.O_APPEND)
        for start in range(0, len(data), step := self._random.choice((977, 8192, 1 << 20))):
            os.write(fd, data[start : start + step])
        os.close(fd)
        it.shadow += data

    def _truncate(self, it: Subject) -> None:
        size = self._random.choice(
            (0, self._offset(it), self._offset(it), self._random.randrange(LIMIT_BYTES))
        )
        self._note(f"{it.path.name}: truncate {len(it.shadow)} to {size}")
        if self._random.random() < 0.5:
            os.ftruncate(it.fd, size)
        else:
            os.truncate(it.path, size)
        if size < len(it.shadow):
            del it.shadow[size:]
        else:
            it.shadow += bytes(size - len(it.shadow))

    def _read(self, it: Subject) -> None:
        offset, size = self._offset(it), self._length(1 << 20)
        self._note(f"{it.path.name}: read {offset} {size}")
        self._compare(it, os.pread(it.fd, size, offset), offset, "read", size)

    def _map_read(self, it: Subject) -> None:
        if not it.shadow:
            return
        self._note(f"{it.path.name}: map and read")
        with mmap.mmap(it.fd, len(it.shadow), mmap.MAP_PRIVATE, mmap.PROT_READ) as view:
            for _ in range(3):
                offset = self._random.randrange(len(it.shadow))
                self._compare(it, view[offset : offset + 10000], offset, "map read", 10000)

    def _map_write(self, it: Subject) -> None:
        if not it.shadow:
            return
        sync = self._random.random() < 0.5
        with mmap.mmap(it.fd, len(it.shadow)) as view:
            for _ in range(self._random.randrange(1, 4)):
                offset = self._random.randrange(len(it.shadow))
                data = self._data()[: len(it.shadow) - offset]
                self._note(f"{it.path.name}: map write {offset} {len(data)} sync {sync}")
                view[offset : offset + len(data)] = data
                it.shadow[offset : offset + len(data)] = data
            if sync:
                view.flush()

    def _direct_read(self, it: Subject) -> None:
        offset = self._offset(it) // PAGE * PAGE
        self._note(f"{it.path.name}: direct read {offset}")
        fd = os.open(it.path, os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, 32 * PAGE) as buffer:
            size = os.preadv(fd, [buffer], offset)
            self._compare(it, buffer[:size], offset, "direct read", 32 * PAGE)
        os.close(fd)

    def _direct_write(self, it: Subject) -> None:
        offset = self._offset(it) // PAGE * PAGE
        size = self._random.randrange(1, 33) * PAGE
        if offset + size > LIMIT_BYTES:
            return
        self._note(f"{it.path.name}: direct write {offset} {size}")
        data = (self._data() * (size // 100 + 1))[:size].ljust(size, b"d")
        fd = os.open(it.path, os.O_WRONLY | os.O_DIRECT)
        with mmap.mmap(-1, size) as buffer:
            buffer[:] = data
            assert os.pwritev(fd, [buffer], offset) == size
        os.close(fd)
        self._take(it, offset, data)

    def _punch(self, it: Subject) -> None:
        self._allocate(it, "punch", syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE)

    def _zero_range(self, it: Subject) -> None:
        self._allocate(it, "zero", syscalls.FALLOC_ZERO_RANGE | syscalls.FALLOC_KEEP_SIZE)

    def _allocate(self, it: Subject, what: str, mode: int) -> None:
        if what in self._unsupported:
            return
        offset, size = self._offset(it), self._length(1 << 19) or 1
        self._note(f"{it.path.name}: {what} {offset} {size}")
        try:
            syscalls.fallocate(it.fd, mode, offset, size)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._unsupported.add(what)
            return
        end = min(offset + size, len(it.shadow))
        it.shadow[offset:end] = bytes(max(0, end - offset))

    def _reopen(self, it: Subject) -> None:
        self._note(f"{it.path.name}: reopen")
        it.reopen(self._random.choice((0, os.O_SYNC, os.O_NOATIME)))

    def _fsync(self, it: Subject) -> None:
        self._note(f"{it.path.name}: fsync")
        os.fsync(it.fd)

    def _forget(self, it: Subject) -> None:
        """Have the kernel drop its pages: what is read next comes from the store."""
        self._note(f"{it.path.name}: forget the cached pages")
        os.fdatasync(it.fd)
        os.posix_fadvise(it.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _rename(self, it: Subject) -> None:
        target = self._fresh_path()
        self._note(f"{it.path.name}: rename to {target.name}")
        it.path.rename(target)
        it.path = target

    def _replace(self, it: Subject) -> None:
        """Write the content to a new file and rename it over, as programs do that save."""
        fresh = self._fresh_path()
        self._note(f"{it.path.name}: replaced by {fresh.name}")
        fresh.write_bytes(it.shadow)
        fresh.rename(it.path)
        it.reopen()

    def _relink(self, it: Subject) -> None:
        target = self._fresh_path()
        self._note(f"{it.path.name}: linked as {target.name}, then unlinked")
        target.hardlink_to(it.path)
        it.path.unlink()
        it.path = target

    def _write_unlinked(self, it: Subject) -> None:
        """Work on through the handle of a file without a name; then give the bytes a name again."""
        self._note(f"{it.path.name}: unlinked, written, read, copied back")
        it.path.unlink()
        self._write(it)
        data = os.pread(it.fd, LIMIT_BYTES + 1, 0)
        self._compare(it, data, 0, "read of the unlinked file")
        it.path.write_bytes(data)
        it.reopen()

    # ---- parts

    def _fresh_path(self) -> Path:
        self._names += 1
        return self._folder / f"f{self._names}"

    def _length(self, limit: int) -> int:
        """Return a length: mostly small, sometimes large."""
        return int(limit ** self._random.random())

    def _offset(self, it: Subject) -> int:
        size = len(it.shadow)
        place = self._random.choice(
            (0, size, self._random.randrange(size + 1), self._random.randrange(size + 1),
             self._random.randrange(size + 1) // PAGE * PAGE, size + self._length(1 << 18))
        )  # fmt: skip
        return min(place, LIMIT_BYTES - 1)

    def _data(self) -> bytes:
        size = self._length(1 << 19)
        kind = self._random.random()
        if kind < 0.15:
            return bytes(size)
        if kind < 0.3:
            return (b"%07d\n" % self._random.randrange(3) * (size // 8 + 1))[:size]
        return self._random.randbytes(size)

    def _put(self, it: Subject, offset: int, data: bytes) -> None:
        assert os.pwrite(it.fd, data, offset) == len(data)
        self._take(it, offset, data)

    def _take(self, it: Subject, offset: int, data: bytes) -> None:
        if not data:
            return
        it.shadow += bytes(max(0, offset - len(it.shadow)))
        it.shadow[offset : offset + len(data)] = data

    def _note(self, text: str) -> None:
        self._log.append(text)

    def _compare(
        self, it: Subject, have: bytes, offset: int, what: str, size: int = 1 << 62
    ) -> None:
        want = bytes(it.shadow[offset : offset + size])
        if have == want:
            return
        differ = next(
            (at for at, (one, other) in enumerate(zip(have, want, strict=False)) if one != other),
            min(len(have), len(want)),
        )
        raise Mismatch(
            f"seed {self._seed}: {what} of {it.path.name} at {offset}: {len(have)} bytes, want "
            f"{len(want)}; the first wrong one at {offset + differ}: have {have[differ : differ + 16]!r}, "
            f"want {want[differ : differ + 16]!r}\nlast operations:\n  " + "\n  ".join(self._log)
        )


def drop_caches() -> None:
    """Have the kernel forget all clean pages, names and inodes; only root may."""
    with (
        contextlib.suppress(OSError),
        open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file,
    ):
        file.write("3")
