"""One process of the stress run: the same random work, from a seed, wherever it is done.

    python -m mount.stress FOLDER SEED TURNS

Makes, changes, moves and removes files, folders and links below FOLDER. All processes take their
bytes from one small corpus, so on dedupfs they share and overtake one another. Prints each answer:
two runs of one seed on two file systems must print the same.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CORPUS_BYTES: Final = 2 << 20
_SPECIAL_NS: Final = 1_600_000_000_000_000_000


def corpus() -> bytes:
    """Return the bytes that all processes write pieces of: noise, runs and zeros."""
    noise = random.Random("corpus")
    parts = [noise.randbytes(700_000), b"0123456789abcdef" * 20_000, bytes(300_000)]
    return (b"".join(parts) + noise.randbytes(_CORPUS_BYTES))[:_CORPUS_BYTES]


class Worker:
    """Random operations on one subtree."""

    def __init__(self, folder: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._corpus = corpus()
        self._folders = [folder]
        self._files: list[str] = []
        self._count = 0
        self._root = folder
        self._turns: tuple[tuple[int, Callable[[], object]], ...] = (
            (12, self._create), (8, self._append), (8, self._overwrite), (6, self._truncate), (10, self._read),
            (4, self._mkdir), (1, self._rmdir), (4, self._rename_file), (1, self._rename_folder), (3, self._link),
            (3, self._symlink), (6, self._unlink), (3, self._chmod), (3, self._setxattr), (2, self._utime),
            (2, self._listdir), (2, self._unlink_open), (2, self._copy), (1, self._fsync),
        )  # fmt: skip

    def run(self, turns: int) -> Iterator[str]:
        """Do so many operations; yield what each answered."""
        weights = [weight for weight, _ in self._turns]
        for number in range(turns):
            ((_, operation),) = self._random.choices(self._turns, weights)
            try:
                answer = operation()
            except OSError as error:
                answer = error.strerror
            yield f"{number} {operation.__name__}: {answer}"

    def _piece(self, limit: int = 1 << 19) -> bytes:
        size = int(limit ** self._random.random())
        start = self._random.choice(
            (0, 4096 * self._random.randrange(100), self._random.randrange(_CORPUS_BYTES))
        )
        return self._corpus[start : start + size]

    def _fresh(self) -> str:
        self._count += 1
        return f"{self._random.choice(self._folders)}/n{self._count}"

    def _file(self) -> str:
        return self._random.choice(self._files) if self._files else f"{self._root}/none"

    def _forget(self, path: str) -> None:
        self._files = [other for other in self._files if other != path]

    def _create(self) -> None:
        path = self._fresh()
        with open(path, "xb", buffering=0) as file:
            file.writelines(self._piece() for _ in range(self._random.randrange(4)))
        self._files.append(path)

    def _append(self) -> int:
        with open(self._file(), "ab", buffering=0) as file:
            file.writelines(self._piece(20_000) for _ in range(self._random.randrange(1, 20)))
            return file.tell()

    def _overwrite(self) -> None:
        with open(self._file(), "r+b", buffering=0) as file:
            for _ in range(self._random.randrange(1, 4)):
                file.seek(self._random.randrange(1 << 20))
                file.write(self._piece(100_000))

    def _truncate(self) -> None:
        os.truncate(self._file(), int((1 << 20) ** self._random.random()))

    def _read(self) -> str:
        with open(self._file(), "rb") as file:
            file.seek(self._random.randrange(1 << 19))
            return hashlib.sha256(file.read(self._random.randrange(1 << 20))).hexdigest()

    def _mkdir(self) -> None:
        path = self._fresh()
        os.mkdir(path, self._random.choice((0o700, 0o755, 0o775)))
        self._folders.append(path)

    def _rmdir(self) -> None:
        path = self._random.choice(self._folders)
        if path != self._root:
            os.rmdir(path)
            self._folders.remove(path)

    def _rename_file(self) -> None:
        old = self._file()
        new = self._file() if self._random.random() < 0.3 else self._fresh()
        os.rename(old, new)
        if old != new and not os.path.exists(old):
            self._files = [path for path in self._files if path not in {old, new}] + [new]

    def _rename_folder(self) -> None:
        old, new = self._random.choice(self._folders), self._fresh()
        if old == self._root:
            return
        os.rename(old, new)

        def moved(path: str) -> str:
            return new + path[len(old) :] if path == old or path.startswith(old + "/") else path

        self._folders = [*map(moved, self._folders)]
        self._files = [*map(moved, self._files)]

    def _link(self) -> None:
        path = self._fresh()
        os.link(self._file(), path)
        self._files.append(path)

    def _symlink(self) -> str:
        path = self._fresh()
        os.symlink(os.path.relpath(self._file(), self._root), path)
        return os.readlink(path)

    def _unlink(self) -> None:
        path = self._file()
        os.unlink(path)
        self._forget(path)

    def _unlink_open(self) -> str:
        """Unlink, then read and write through the handle."""
        path = self._file()
        with open(path, "r+b", buffering=0) as file:
            os.unlink(path)
            self._forget(path)
            data = file.read(100_000)
            file.write(self._piece())
            return f"{hashlib.sha256(data).hexdigest()} {os.fstat(file.fileno()).st_size}"

    def _chmod(self) -> None:
        os.chmod(self._file(), self._random.choice((0o600, 0o644, 0o755, 0o4755, 0o2750)))

    def _setxattr(self) -> None:
        path, name = self._file(), f"user.n{self._random.randrange(5)}"
        if self._random.random() < 0.3:
            os.removexattr(path, name)
        else:
            os.setxattr(path, name, self._piece(300))

    def _utime(self) -> None:
        os.utime(self._file(), ns=(_SPECIAL_NS, _SPECIAL_NS + self._random.randrange(10**9)))

    def _listdir(self) -> list[str]:
        return sorted(os.listdir(self._random.choice(self._folders)))

    def _copy(self) -> None:
        """Write one file's whole content into another, as a second rank would."""
        path = self._fresh()
        with open(self._file(), "rb") as source, open(path, "xb", buffering=0) as target:
            self._files.append(path)
            while data := source.read(self._random.choice((1000, 65536, 1 << 20))):
                target.write(data)

    def _fsync(self) -> None:
        fd = os.open(self._file(), os.O_RDWR)
        os.fsync(fd)
        os.close(fd)


if __name__ == "__main__":
    os.umask(0o022)
    for line in Worker(sys.argv[1], int(sys.argv[2])).run(int(sys.argv[3])):
        print(line)
