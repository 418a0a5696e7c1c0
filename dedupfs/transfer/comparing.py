"""Comparing a copy with its original, byte for byte and name by name."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from dedupfs.transfer.copying import ATTRIBUTES, READ_BYTES, opened, values
from dedupfs.transfer.tree import Problems, walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.transfer.copying import Copied
    from dedupfs.transfer.tree import Entry

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Comparer:
    """One comparison of `target` with `source`."""

    def __init__(  # noqa: PLR0913 - what a comparison goes by
        self,
        source: bytes,
        target: bytes,
        *,
        copied: Copied,
        unchanged_since_ns: int,
        allows_more: bool,
        marks: bool,
        tick: Callable[[int], None],
    ) -> None:
        """Take the roots. `copied` tells what the copy could not keep; `allows_more`: the target may have more names.

        With `marks` a file of other content loses its mtime, so that the next copy replaces it.
        An original whose ctime is not before `unchanged_since_ns` is a problem.
        """
        self.problems = Problems()
        self._source = source
        self._target = target
        self._lost = copied.lost
        self._instant_ns = unchanged_since_ns
        self._allows_more = allows_more
        self._marks = marks
        self._tick = tick
        self._links: dict[tuple[int, int], tuple[int, bytes]] = {}

    def run(self) -> Problems:
        """Compare everything; return what differs."""
        for entry in walk(self._source, self.problems):
            if entry.kind == stat.S_IFSOCK:
                continue
            path = os.path.join(self._target, entry.rel).rstrip(b"/")  # noqa: PTH118 - bytes
            try:
                what = self._difference(entry, path)
            except OSError as error:
                self.problems.add_error(path, error)
            else:
                if what:
                    self.problems.add(entry.path, what)
        return self.problems

    def _difference(self, entry: Entry, path: bytes) -> str:
        if entry.kind == stat.S_IFDIR and not entry.is_left:
            return self._more_names(entry, path)
        there = os.lstat(path)
        what = (
            self._of_stat(entry, there)
            or self._of_content(entry, path, there)
            or self._of_attributes(entry.path, path)
        )
        now = os.lstat(entry.path)
        if max(now.st_ctime_ns, now.st_mtime_ns) >= self._instant_ns:
            return "has changed while it was copied"
        return what

    def _of_stat(self, entry: Entry, there: os.stat_result) -> str:
        found = entry.found
        pairs = {
            "type": (entry.kind, stat.S_IFMT(there.st_mode)),
            "mtime": (found.st_mtime_ns, there.st_mtime_ns),
            "device": (found.st_rdev, there.st_rdev),
        }
        if entry.kind != stat.S_IFDIR:
            pairs["size"] = found.st_size, there.st_size
        if entry.kind != stat.S_IFLNK:
            pairs["mode"] = stat.S_IMODE(found.st_mode), stat.S_IMODE(there.st_mode)
        if "owners" not in self._lost:
            pairs["owner"] = found.st_uid, there.st_uid
            pairs["group"] = found.st_gid, there.st_gid
        differing = [name for name, (want, have) in pairs.items() if want != have]
        return f"{', '.join(differing)} not as in the original" if differing else ""

    def _of_content(self, entry: Entry, path: bytes, there: os.stat_result) -> str:
        if entry.kind != stat.S_IFDIR and entry.found.st_nlink > 1:
            key = entry.found.st_dev, entry.found.st_ino
            first = self._links.setdefault(key, (there.st_ino, entry.rel))
            if first[0] != there.st_ino:
                return "is no longer the same file as its other names"
            if first[1] != entry.rel:
                return ""  # compared under another name
        if entry.kind == stat.S_IFLNK:
            same = os.readlink(entry.path) == os.readlink(path)  # noqa: PTH115 - bytes
            return "" if same else "points elsewhere"
        return self._of_bytes(entry.path, path) if entry.kind == stat.S_IFREG else ""

    def _of_attributes(self, original: bytes, copy: bytes) -> str:
        if ATTRIBUTES in self._lost:
            return ""
        same = values(original) == values(copy)
        return "" if same else "extended attributes not as in the original"

    def _of_bytes(self, original: bytes, copy: bytes) -> str:
        with opened(original, _FLAGS) as left, opened(copy, _FLAGS) as right:
            at = 0
            while True:
                ours, theirs = os.pread(left, READ_BYTES, at), os.pread(right, READ_BYTES, at)
                if ours != theirs:
                    if self._marks:
                        os.utime(copy, ns=(0, 0))
                    return f"content differs, at or behind byte {at:,}"
                if not ours:
                    return ""
                at += len(ours)
                self._tick(len(ours))

    def _more_names(self, entry: Entry, path: bytes) -> str:
        if self._allows_more:
            return ""
        more = set(os.listdir(path)) - set(os.listdir(entry.path))  # noqa: PTH208
        return f"the copy has {len(more):,} more names" if more else ""
