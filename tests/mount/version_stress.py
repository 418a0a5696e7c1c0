"""One process of the version stress: writes versions of files, or checks that each is whole.

    python -m mount.version_stress write|read FOLDER SEED SECONDS

The number of a version stands in its first bytes and decides the rest, so that a reader knows what
it must find. Versions share most of their bytes, so on dedupfs they follow one another, share
segments and are put together from reflinks. Only the tags and the length change in place: what a
reader has open or mapped stays true in every mode. Prints how much was done.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE: Final = 4096
FOLDERS: Final = 3
NAMES: Final = 4  # in each folder
_VERSIONS: Final = 40
_TAG_AT: Final = 16
_TAGS: Final = b"ABCDEFGH"
_CORPUS: Final = random.Random("versions").randbytes(2 << 20)
EXTENDED: Final = len(_CORPUS) + 5000
_HELD_MAX: Final = 6
# A link that is answered while the file grows lets the kernel see its old size for a moment, and who
# maps the file just then gets a SIGBUS: rare, and the kernel's, so only the long form extends.
_EXTENDS: Final = 2 if "DEDUPFS_STRESS_S" in os.environ else 0


def content(version: int) -> bytearray:
    """Return a version; its tags, at _TAG_AT and at the end, may change in place."""
    chance = random.Random(version)
    size = chance.randrange(200_000, len(_CORPUS))
    data = bytearray(_CORPUS[:size])
    for _ in range(chance.randrange(4)):
        at = chance.randrange(1, size // PAGE - 1) * PAGE
        data[at : at + PAGE] = chance.randbytes(PAGE)
    data[:_TAG_AT] = b"%016d" % version
    data[_TAG_AT] = data[-1] = _TAGS[0]
    return data


def wrong(file: bytes | mmap.mmap) -> str:
    """Return what is wrong with the bytes of a file, "" when they are one whole version."""
    found = file[:]  # of a map: the tags may change meanwhile
    head = found[:_TAG_AT]
    if not head.isdigit():
        return f"begins with {head!r}"
    want = content(int(head))
    size = len(want)
    if len(found) not in {size, EXTENDED}:
        return f"version {int(head)} has {len(found)} bytes, not {size}"
    for at in (_TAG_AT, size - 1):
        if found[at] not in _TAGS:
            return f"version {int(head)} has tag {found[at]}"
        want[at] = found[at]
    if found[:size] != want:
        first = next(at for at in range(size) if found[at] != want[at])
        return f"version {int(head)} differs at {first}"
    return "bytes behind its end" if found[size : len(found)].strip(b"\0") else ""


class Process:
    """Random turns in one folder, from a seed, for a time."""

    def __init__(self, folder: str, seed: int) -> None:
        self._chance = random.Random(seed)
        self._folder = folder
        self._me = f"{seed}"
        self._held: list[tuple[object, mmap.mmap]] = []
        self._writing: tuple[tuple[int, Callable[[], None]], ...] = (
            (6, self._replace), (3, self._change_before_naming), (6, self._tag), (_EXTENDS, self._extend),
            (3, self._unlink), (1, self._remove_folder), (2, self._link),
        )  # fmt: skip
        self._reading: tuple[tuple[int, Callable[[], None]], ...] = (
            (4, self._read), (4, self._map), (6, self._hold), (4, self._let_go), (2, self._peek),
        )  # fmt: skip

    def run(self, role: str, seconds: float) -> int:
        """Take turns; return how many. A file that is gone is no failure."""
        weights, turns = zip(*(self._writing if role == "write" else self._reading), strict=True)
        stop, count = time.monotonic() + seconds, 0
        while time.monotonic() < stop:
            (turn,) = self._chance.choices(turns, weights)
            with contextlib.suppress(FileNotFoundError):
                turn()
                count += 1
        while self._held:
            self._let_go()
        return count

    def _path(self) -> str:
        folder, name = self._chance.randrange(FOLDERS), self._chance.randrange(NAMES)
        return f"{self._folder}/{folder}/{name}"

    def _write(self, version: int) -> str:
        """Write a version under a name of this process's own, in calls of odd sizes."""
        path, data = f"{self._folder}/temp{self._me}", content(version)
        with open(path, "wb", buffering=0) as file:
            at = 0
            while at < len(data):
                step = self._chance.choice((1000, 70_000, 1 << 20))
                at += file.write(data[at : at + step])
        return path

    def _name(self, temp: str) -> None:
        path = self._path()
        with contextlib.suppress(FileExistsError):  # os.makedirs fails when it goes meanwhile
            os.mkdir(os.path.dirname(path))
        os.rename(temp, path)

    def _replace(self) -> None:
        self._name(self._write(self._chance.randrange(_VERSIONS)))

    def _change_before_naming(self) -> None:
        """Rewrite a closed file while it is mapped: a copy up where that is read past the daemon."""
        old, new = (self._chance.randrange(_VERSIONS) for _ in range(2))
        path = self._write(old)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            self._check(mapped, "just written")
            data = content(new)
            if len(data) < len(mapped):
                data = content(old)  # a map of a file that shrinks is a SIGBUS
            with open(path, "r+b", buffering=0) as again:
                again.write(data)
        with open(path, "rb") as file:
            found = file.read()
        assert found.startswith(data), "what was written last is not what is read"
        self._name(path)

    def _tag(self) -> None:
        """Change one byte in place."""
        with open(self._path(), "r+b", buffering=0) as file:
            size = len(content(int(file.read(_TAG_AT))))
            file.seek(self._chance.choice((_TAG_AT, size - 1)))
            file.write(bytes([self._chance.choice(_TAGS)]))

    def _extend(self) -> None:
        """Make a file longer, always to the same size: shorter would be a SIGBUS to who maps it."""
        path = self._path()
        if self._chance.random() < 0.5:
            os.truncate(path, EXTENDED)
        else:
            with open(path, "r+b", buffering=0) as file:
                os.ftruncate(file.fileno(), EXTENDED)

    def _unlink(self) -> None:
        os.unlink(self._path())

    def _remove_folder(self) -> None:
        """Remove a folder whole, as eviction does."""
        shutil.rmtree(os.path.dirname(self._path()), ignore_errors=True)

    def _link(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.link(self._path(), self._path())

    def _check(self, found: bytes | mmap.mmap, how: str) -> None:
        text = wrong(found)
        assert not text, f"{how}: {text}"

    def _read(self) -> None:
        with open(self._path(), "rb") as file:
            self._check(file.read(), "read")

    def _open_map(self) -> tuple[object, mmap.mmap]:
        # private and writable as torch maps, private or shared and readable as Arrow does
        flags, prot = self._chance.choice(
            (
                (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE),
                (mmap.MAP_PRIVATE, mmap.PROT_READ),
                (mmap.MAP_SHARED, mmap.PROT_READ),
            )
        )
        file = open(self._path(), "rb")  # noqa: SIM115 - held
        return file, mmap.mmap(file.fileno(), 0, flags, prot)

    def _map(self) -> None:
        file, mapped = self._open_map()
        self._held.append((file, mapped))
        self._check(mapped, "map")
        self._let_go(-1)

    def _hold(self) -> None:
        if len(self._held) >= _HELD_MAX:
            self._let_go()
        self._held.append(self._open_map())

    def _let_go(self, which: int = 0) -> None:
        """Check a map that was held, whatever happened to its file, and close it."""
        if self._held:
            file, mapped = self._held.pop(which)
            self._check(mapped, "held map")
            mapped.close()
            file.close()  # type: ignore[attr-defined]

    def _peek(self) -> None:
        """Read pieces of a file at random places."""
        with open(self._path(), "rb", buffering=0) as file:
            want = content(int(file.read(_TAG_AT)))
            for _ in range(5):
                at = self._chance.randrange(_TAG_AT + 1, len(want) - 1)
                size = min(self._chance.randrange(1, 200_000), len(want) - 1 - at)
                assert os.pread(file.fileno(), size, at) == want[at : at + size], f"peek at {at}"


if __name__ == "__main__":
    print(Process(sys.argv[2], int(sys.argv[3])).run(sys.argv[1], float(sys.argv[4])))
