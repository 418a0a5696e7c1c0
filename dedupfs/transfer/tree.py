"""Walking a tree of files by byte paths: order, kinds, what was counted, what went wrong."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from dedupfs.core.errors import DedupfsError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROBLEMS_KEPT: Final = 20
BLOCK_BYTES: Final = 512  # of st_blocks, stat(2)


class TransferError(DedupfsError):
    """A tree cannot be taken in or written out."""


class Tick(Protocol):
    """Hears how it goes."""

    def __call__(self, what: str, done_bytes: int, total_bytes: int, /) -> None:
        """Show it."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""


@dataclass(slots=True)
class Entry:
    """One name: `path` is absolute, `rel` from the root (b"" is the root), `found` its lstat."""

    path: bytes
    rel: bytes
    found: os.stat_result
    is_left: bool = False  # a directory, met again behind all that is in it

    @property
    def kind(self) -> int:
        """The file type bits."""
        return stat.S_IFMT(self.found.st_mode)


@dataclass(slots=True)
class Problems:
    """What went wrong, entry by entry: the first ones in words, all counted."""

    first: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, path: bytes, what: str) -> None:
        """Note one."""
        self.count += 1
        if len(self.first) < PROBLEMS_KEPT:
            self.first.append(f"{printable(path)}: {what}")

    def add_error(self, path: bytes, error: OSError) -> None:
        """Note a refused system call; raise it when the mount itself has ended."""
        if error.errno in {errno.ENOTCONN, errno.ECONNABORTED}:
            raise error
        self.add(path, error.strerror or repr(error))

    def check(self, verdict: str) -> None:
        """Raise TransferError with `verdict` and the first ones, a line each, if there are any."""
        if not self.count:
            return
        lines = [f"  {line}" for line in self.first]
        if self.count > len(lines):
            lines.append(f"  and {self.count - len(lines):,} more")
        raise TransferError("\n".join([verdict, *lines]))


def printable(path: bytes) -> str:
    """Return a path for people: names may hold line breaks, and bytes that are no text."""
    text = os.fsdecode(path)
    return text if text.isprintable() else ascii(text)


def walk(root: bytes, problems: Problems) -> Iterator[Entry]:
    """Yield every entry, sorted by name; a directory before what is in it, and again behind it.

    What cannot be read, and file systems mounted inside, are `problems`. Raises TransferError when
    the root cannot be read, OSError when it is a dead mount.
    """
    try:
        top = Entry(root, b"", os.lstat(root))
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise  # a dead mount: the commands know what to do about it
        raise TransferError(f"{printable(root)}: {error.strerror}") from None
    stack = [top]
    while stack:
        entry = stack.pop()
        yield entry
        if entry.is_left or not stat.S_ISDIR(entry.found.st_mode):
            continue
        stack.append(Entry(entry.path, entry.rel, entry.found, is_left=True))
        stack.extend(_children(entry, top.found.st_dev, problems))


def _children(entry: Entry, device: int, problems: Problems) -> list[Entry]:
    try:
        names = sorted(os.listdir(entry.path), reverse=True)  # noqa: PTH208 - bytes
    except OSError as error:
        problems.add_error(entry.path, error)
        return []
    children = []
    for name in names:
        path = os.path.join(entry.path, name)  # noqa: PTH118 - bytes
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            problems.add(path, "has just gone")
        except OSError as error:
            problems.add_error(path, error)
        else:
            if found.st_dev != device:
                problems.add(path, "is another file system, mounted inside: unmount it first")
            else:
                children.append(Entry(path, os.path.join(entry.rel, name), found))  # noqa: PTH118
    return children


@dataclass(slots=True)
class Survey:
    """How much there is; a file with several names counts once."""

    files: int = 0
    directories: int = 0
    logical_bytes: int = 0
    allocated_bytes: int = 0
    sockets: int = 0


def survey(root: bytes, problems: Problems) -> Survey:
    """Count the tree."""
    out = Survey()
    seen: set[tuple[int, int]] = set()
    for entry in walk(root, problems):
        found = entry.found
        if stat.S_ISDIR(found.st_mode):
            out.directories += not entry.is_left
            continue
        out.sockets += stat.S_ISSOCK(found.st_mode)
        if is_known_link(found, seen):
            continue
        out.files += 1
        if stat.S_ISREG(found.st_mode):
            out.logical_bytes += found.st_size
            out.allocated_bytes += min(found.st_blocks * BLOCK_BYTES, found.st_size)
    return out


def is_known_link(found: os.stat_result, seen: set[tuple[int, int]]) -> bool:
    """Tell whether another name of the file was met before; only files with several are kept."""
    if found.st_nlink < 2 or stat.S_ISDIR(found.st_mode):  # noqa: PLR2004 - a second name
        return False
    key = found.st_dev, found.st_ino
    if key in seen:
        return True
    seen.add(key)
    return False


def changed_since(root: bytes, instant_ns: int, problems: Problems) -> None:
    """Note every entry below `root` whose ctime is not before `instant_ns`."""
    for entry in walk(root, problems):
        # Renaming the root changes its own ctime; its names are in its mtime.
        moment = entry.found.st_ctime_ns if entry.rel else entry.found.st_mtime_ns
        if moment >= instant_ns and not entry.is_left:
            problems.add(entry.path, "has changed")


def is_full(error: OSError) -> bool:
    """Tell whether there was no room."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
