"""What a mount would save on a tree: the chunks and fingerprints of a mount, without one.

Reads only. Memory is bounded: when more than CHUNKS_MAX fingerprints are known, every second one is
forgotten, by its own bits, and the rest stands for all (so does the distinct-sampling of Gibbons,
VLDB 2001). `sample` reads a part only: of small files all of the same sizes, of large ones the same
windows, so that copies are met together or not at all.

A mount finds somewhat more: equal pages within chunks that differ (DESIGN.md, "Follow").
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import xxhash

from dedupfs.core import matching
from dedupfs.core.chunking import CHUNK_MAX_BYTES, cut, fingerprint
from dedupfs.transfer.copying import data_ranges, opened
from dedupfs.transfer.tree import BLOCK_BYTES, Problems, is_known_link, printable, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dedupfs.transfer.tree import Tick

CHUNKS_MAX: Final = 1 << 20  # about 200 MB of memory, 64 GiB of distinct content
SHARED: Final = -1
_DUPLICATES_KEPT: Final = 20
_DIGESTS_MAX: Final = 1 << 20
_READ_BYTES: Final = 4 << 20
_WINDOW_BYTES: Final = 8 << 20
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_SCALE: Final = 1 << 32


@dataclass(slots=True)
class Folder:
    """A top-level folder, or all files beside them: bytes that were read."""

    name: str
    files: int = 0
    logical_bytes: int = 0  # all of it
    read_bytes: int = 0
    own_bytes: int = 0  # distinct content that no other folder has


@dataclass(slots=True)
class Duplicates:
    """Files that are equal as a whole."""

    file_bytes: int
    count: int
    paths: list[str]


@dataclass(slots=True)
class Estimate:
    """What a mount would save; bytes, holes left out, of the whole tree unless said otherwise."""

    path: str
    files: int = 0
    logical_bytes: int = 0
    read_bytes: int = 0
    zero_bytes: int = 0  # of those read
    distinct_bytes: int = 0  # of those read
    is_complete: bool = False
    sample: float = 1.0
    folders: list[Folder] = field(default_factory=list)
    duplicates: list[Duplicates] = field(default_factory=list)
    duplicate_bytes: int = 0  # in files that equal another one as a whole, of those read whole
    problems: Problems = field(default_factory=Problems)

    @property
    def unique_bytes(self) -> int:
        """What would lie on disk: the distinct bytes, scaled to the tree if not all was read."""
        if not self.read_bytes or (self.is_complete and self.sample >= 1):
            return self.distinct_bytes
        return round(self.distinct_bytes * (self.logical_bytes / self.read_bytes))

    @property
    def ratio(self) -> float:
        """How many bytes of files one byte on disk would carry."""
        return round(self.logical_bytes / self.unique_bytes, 4) if self.unique_bytes else 1.0

    def document(self) -> dict[str, object]:
        """Return the JSON document."""
        return {
            "path": self.path,
            "complete": self.is_complete,
            "sample": self.sample,
            "files": self.files,
            "logical_bytes": self.logical_bytes,
            "read_bytes": self.read_bytes,
            "zero_bytes": self.zero_bytes,
            "unique_bytes": self.unique_bytes,
            "ratio": self.ratio,
            "unreadable": self.problems.count,
            "folders": [
                {
                    "name": folder.name, "files": folder.files,
                    "logical_bytes": folder.logical_bytes, "read_bytes": folder.read_bytes,
                    "own_bytes": folder.own_bytes,
                }
                for folder in self.folders
            ],
            "duplicate_bytes": self.duplicate_bytes,
            "duplicates": [
                {"file_bytes": one.file_bytes, "count": one.count, "paths": one.paths}
                for one in self.duplicates
            ],
        }  # fmt: skip


class Estimator:
    """One look at a tree; `result` is right at every moment, for what was read until then."""

    def __init__(self, root: bytes, tick: Tick, *, sample: float = 1.0) -> None:
        """`sample` is the part to read, above 0, at most 1."""
        self._root = root
        self._tick = tick
        self._sample = sample
        self._estimate = Estimate(os.fsdecode(root), sample=sample)
        self._folders: dict[bytes, int] = {}
        self._sizes: Counter[int] = Counter()
        self._chunks: dict[bytes, tuple[int, int]] = {}  # fingerprint: length, folder or SHARED
        self._mask = 0  # only fingerprints without these bits are kept
        self._wholes: dict[tuple[int, bytes], Duplicates] = {}

    def run(self) -> None:
        """Read the tree. KeyboardInterrupt leaves what was found so far."""
        want = self._survey()
        seen: set[tuple[int, int]] = set()
        for entry in walk(self._root, Problems()):
            found = entry.found
            if not stat.S_ISREG(found.st_mode) or is_known_link(found, seen):
                continue
            folder = self._folders[_top(entry.rel)]
            try:
                self._read_file(entry.path, found.st_size, folder, want)
            except OSError as error:
                self._estimate.problems.add_error(entry.path, error)
        self._estimate.is_complete = True

    def result(self) -> Estimate:
        """Return what is known."""
        out = self._estimate
        factor = self._mask + 1
        own: Counter[int] = Counter()
        total = 0
        for length, folder in self._chunks.values():
            own[folder] += length
            total += length
        out.distinct_bytes = total * factor
        for at, one in enumerate(out.folders):
            one.own_bytes = own[at] * factor
        equal = [one for one in self._wholes.values() if one.count > 1]
        equal.sort(key=lambda one: -one.file_bytes * (one.count - 1))
        out.duplicate_bytes = sum(one.file_bytes * (one.count - 1) for one in equal)
        out.duplicates = equal[:_DUPLICATES_KEPT]
        return out

    def _survey(self) -> int:
        """Count everything; return how many bytes will be read."""
        want = 0
        out, seen = self._estimate, set[tuple[int, int]]()
        for entry in walk(self._root, out.problems):
            size = entry.found.st_size
            taken = min(size, entry.found.st_blocks * BLOCK_BYTES)
            if not stat.S_ISREG(entry.found.st_mode) or is_known_link(entry.found, seen):
                continue
            top = _top(entry.rel)
            if top not in self._folders:
                self._folders[top] = len(out.folders)
                out.folders.append(Folder(os.fsdecode(top)))
            folder = out.folders[self._folders[top]]
            folder.files += 1
            folder.logical_bytes += taken
            out.files += 1
            out.logical_bytes += taken
            self._sizes[size] += 1
            want += min(taken, sum(stop - start for start, stop in self._windows(size)))
            self._tick("counting", 0, 0)
        return want

    def _windows(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a file of that size to be read."""
        if self._sample >= 1:
            yield 0, size
        elif size <= _WINDOW_BYTES:
            if _is_chosen(b"size %d" % size, self._sample):
                yield 0, size
        else:
            for start in range(0, size, _WINDOW_BYTES):
                if _is_chosen(b"window %d" % start, self._sample):
                    yield start, min(start + _WINDOW_BYTES, size)

    def _read_file(self, path: bytes, size: int, folder: int, want: int) -> None:
        whole = xxhash.xxh3_128() if self._sizes[size] > 1 and size else None
        done = 0
        with opened(path, _FLAGS) as fd:
            for start, stop in self._windows(size):
                for begin, end in data_ranges(fd, start, stop):
                    if whole is not None:
                        whole.update(b"%d" % begin)
                    self._read_range(fd, (begin, end), folder, whole, want)
                done += stop - start
        if whole is not None and done == size:
            self._note_whole(path, size, whole.digest())

    def _note_read(self, length: int, folder: int, want: int) -> None:
        if length:
            self._estimate.read_bytes += length
            self._estimate.folders[folder].read_bytes += length
            self._tick("reading", self._estimate.read_bytes, want)

    def _read_range(
        self,
        fd: int,
        window: tuple[int, int],
        folder: int,
        whole: xxhash.xxh3_128 | None,
        want: int,
    ) -> None:
        at, stop = window
        rest = b""
        while at < stop:
            piece = os.pread(fd, min(_READ_BYTES, stop - at), at)
            if not piece:
                break
            at += len(piece)
            if whole is not None:
                whole.update(piece)
            rest = self._take(rest + piece, folder, is_last=at >= stop)
            self._note_read(len(piece), folder, want)
        if rest:
            self._take(rest, folder, is_last=True)

    def _take(self, data: bytes, folder: int, *, is_last: bool) -> bytes:
        """Note the chunks of `data`; return the part whose last chunk may yet grow."""
        at = 0
        while at < len(data):
            zeros_start, zeros_stop = matching.zero_run(data, at)
            final = is_last or zeros_start < len(data)
            view = memoryview(data)[at:zeros_start]
            for length in cut(view):
                if at + length == zeros_start and not final and length < CHUNK_MAX_BYTES:
                    return data[at:]
                self._note(data[at : at + length], folder)
                at += length
            self._estimate.zero_bytes += zeros_stop - zeros_start
            at = zeros_stop
        return b""

    def _note(self, piece: bytes, folder: int) -> None:
        name = fingerprint(piece)
        if int.from_bytes(name[:8]) & self._mask:
            return
        known = self._chunks.get(name)
        if known is None:
            self._chunks[name] = len(piece), folder
            if len(self._chunks) > CHUNKS_MAX:
                self._thin()
        elif known[1] not in {folder, SHARED}:
            self._chunks[name] = known[0], SHARED

    def _thin(self) -> None:
        self._mask = self._mask << 1 | 1
        self._chunks = {
            name: chunk
            for name, chunk in self._chunks.items()
            if not int.from_bytes(name[:8]) & self._mask
        }

    def _note_whole(self, path: bytes, size: int, digest: bytes) -> None:
        known = self._wholes.get((size, digest))
        if known is not None:
            known.count += 1
            if len(known.paths) < _DUPLICATES_KEPT:
                known.paths.append(printable(path))
        elif len(self._wholes) < _DIGESTS_MAX:
            self._wholes[size, digest] = Duplicates(size, 1, [printable(path)])


def _top(rel: bytes) -> bytes:
    first, slash, _ = rel.partition(b"/")
    return first if slash else b"."


def _is_chosen(key: bytes, part: float) -> bool:
    return xxhash.xxh3_64_intdigest(key) % _SCALE < part * _SCALE
