"""A workload written down: what an actor does next, and the states its files may be in after a crash.

An actor owns one directory and does one act at a time, chosen by a seed. Whoever knows the seed and
how many acts were acknowledged knows what must be there: so the log of acknowledgements is a
byte an act.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

NAMES = 12  # a directory: few, so that names are used again
DIRTY_WRITES_MAX = 8


class Act(NamedTuple):
    """One system call, acknowledged when it returns. Paths are below the actor's directory."""

    kind: str
    path: str = ""
    other: str = ""
    handle: int = 0
    number: int = 0  # offset, size, mode or time
    data: bytes = b""


@dataclass
class Node:
    """An inode. `versions` are the contents a crash may leave, byte by byte; the last is the newest."""

    kind: str  # "file", "dir", "link"
    versions: list[bytes] = field(default_factory=lambda: [b""])
    mode: int = 0o600
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    mtime_ns: int | None = None  # None: not known
    handles: int = 0

    def write(self, offset: int, data: bytes) -> None:
        last = self.versions[-1]
        self.versions.append(last[:offset].ljust(offset, b"\0") + data + last[offset + len(data) :])
        self.mtime_ns = None

    def truncate(self, size: int) -> None:
        self.versions = [version[:size].ljust(size, b"\0") for version in self.versions]
        self.mtime_ns = None

    def settle(self) -> None:
        """Closed or synced: the newest content is the only one allowed."""
        self.versions = self.versions[-1:]


class Sizes(NamedTuple):
    """How large files are, in bytes."""

    small: int = 9000
    medium: int = 300_000
    large: int = 2_500_000


SIZES = Sizes()
SMALL_SIZES = Sizes(5000, 30_000, 400_000)


class Script:
    """The acts of one actor in order, and the state of its directory after each."""

    def __init__(self, seed: str, sizes: Sizes = SIZES) -> None:
        self._random = random.Random(seed)
        self._seed = seed
        self._sizes = sizes
        self._next_handle = 1
        self.names: dict[str, Node] = {}
        self.open: dict[int, Node] = {}
        self._queued: list[Act] = [Act("mkdir", "", number=0o700)]

    def next(self) -> Act:
        """Choose the next act; nothing changes until `apply`."""
        while not self._queued:
            chosen = self._random.choices(list(_CHOICES), [w for _, w in _CHOICES.values()])[0]
            self._queued = _CHOICES[chosen][0](self)
        return self._queued.pop(0)

    def apply(self, act: Act) -> None:
        """Take note that `act` happened."""
        _EFFECTS[act.kind](self, act)

    def paths(self, kind: str) -> list[str]:
        return [path for path, node in self.names.items() if node.kind == kind]

    # What to do next.

    def _free_path(self) -> str:
        """Return a path in a known directory; it may be taken by a file."""
        return f"{self._random.choice(self.paths('dir'))}/n{self._random.randrange(NAMES)}"

    def _pick(self, kind: str) -> str | None:
        paths = self.paths(kind)
        return self._random.choice(paths) if paths else None

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _size(self) -> int:
        limit = self._random.choices(self._sizes, (75, 21, 4))[0]
        return self._random.randrange(limit)

    def _bytes(self) -> bytes:
        size = self._size()
        way = self._random.random()
        if way < 0.55:  # what other actors write, too
            return content(f"shared{self._random.randrange(6)}")[:size]
        if way < 0.75:  # the same with another header
            shared = content(f"shared{self._random.randrange(6)}")[:size]
            return f"{self._seed} {self._next_handle}".encode()[:size] + shared[64:]
        if way < 0.85:
            return bytes(size)
        return self._random.randbytes(size)

    def _write_file(self) -> list[Act]:
        path = self._free_path()
        if path in self.names:
            return []
        handle = self._handle()
        acts = [Act("create", path, handle=handle)]
        data, at = self._bytes(), 0
        step = max(self._random.choice((700, 4096, 10_000, 131_072)), len(data) // 6 + 1)
        while at < len(data):
            acts.append(Act("write", handle=handle, number=at, data=data[at : at + step]))
            at += step
        return [*acts, *self._end(handle)]

    def _end(self, handle: int) -> list[Act]:
        """Close now, or fsync, or leave it open for later."""
        way = self._random.random()
        if way < 0.6 or len(self.open) > 8:
            return [Act("close", handle=handle)]
        if way < 0.8:
            return [Act("fsync", handle=handle), Act("close", handle=handle)]
        return []

    def _append(self) -> list[Act]:
        path = self._pick("file")
        if path is None:
            return []
        handle, at = self._handle(), len(self.names[path].versions[-1])
        acts = [Act("open", path, handle=handle)]
        for _ in range(self._random.randrange(1, 4)):
            data = self._bytes()[: self._sizes.medium]
            if data:
                acts.append(Act("write", handle=handle, number=at, data=data))
                at += len(data)
        return [*acts, *self._end(handle)]

    def _overwrite(self) -> list[Act]:
        path = self._pick("file")
        if path is None:
            return []
        size = len(self.names[path].versions[-1])
        at = self._random.randrange(size + 5000)
        data = self._bytes()[: self._sizes.small] or b"x"
        handle = self._handle()
        acts = [Act("open", path, handle=handle), Act("write", handle=handle, number=at, data=data)]
        return [*acts, *self._end(handle)]

    def _rewrite(self) -> list[Act]:
        """Write a new file beside an old one and rename it over, as careful programs do."""
        path = self._pick("file")
        if path is None or (fresh := path + "~") in self.names:
            return []
        handle = self._handle()
        return [
            Act("create", fresh, handle=handle),
            Act("write", handle=handle, data=self._bytes() or b"x"),
            *([Act("fsync", handle=handle)] if self._random.random() < 0.5 else []),
            Act("close", handle=handle),
            Act("rename", fresh, path),
        ]

    def _use_open(self) -> list[Act]:
        if not self.open:
            return []
        handle = self._random.choice(list(self.open))
        node = self.open[handle]
        if self._random.random() < 0.5 or len(node.versions) > DIRTY_WRITES_MAX:
            kinds = ("fsync", "close", "close")
            return [Act(self._random.choice(kinds), handle=handle)]
        at = self._random.randrange(len(node.versions[-1]) + 1)
        return [Act("write", handle=handle, number=at, data=self._bytes() or b"y")]

    def _rename(self) -> list[Act]:
        source = self._pick("file") or self._pick("link")
        target = self._free_path()
        if source is None or target in self.paths("dir"):
            return []
        if self.names.get(target) is self.names[source]:
            return []  # rename(2) of one inode to itself does nothing
        return [Act("rename", source, target)]

    def _rename_dir(self) -> list[Act]:
        source, target = self._pick("dir"), self._free_path()
        if not source or target in self.names or f"{target}/".startswith(f"{source}/"):
            return []
        return [Act("rename", source, target)]

    def _unlink(self) -> list[Act]:
        path = self._pick("file") if self._random.random() < 0.9 else self._pick("link")
        return [] if path is None else [Act("unlink", path)]

    def _link(self) -> list[Act]:
        source, target = self._pick("file"), self._free_path()
        if source is None or target in self.names:
            return []
        return [Act("link", source, target)]

    def _symlink(self) -> list[Act]:
        path = self._free_path()
        if path in self.names:
            return []
        return [Act("symlink", path, f"somewhere/{self._random.randrange(10**6)}")]

    def _mkdir(self) -> list[Act]:
        path = self._free_path()
        if path in self.names or path.count("/") > 3:
            return []
        return [Act("mkdir", path, number=0o755)]

    def _rmdir(self) -> list[Act]:
        for path in self.paths("dir"):
            if path and not any(other.startswith(f"{path}/") for other in self.names):
                return [Act("rmdir", path)]
        return []

    def _truncate(self) -> list[Act]:
        path = self._pick("file")
        if path is None:
            return []
        size = len(self.names[path].versions[-1])
        way = self._random.random()
        new = 0 if way < 0.2 else self._random.randrange(size + 3000)
        return [Act("truncate", path, number=new)]

    def _setxattr(self) -> list[Act]:
        path = self._pick("file") or ""
        name = f"user.x{self._random.randrange(3)}"
        if name in self.names[path].xattrs and self._random.random() < 0.3:
            return [Act("removexattr", path, name)]
        return [Act("setxattr", path, name, data=self._random.randbytes(20))]

    def _chmod(self) -> list[Act]:
        path = self._pick("file")
        return [] if path is None else [Act("chmod", path, number=self._random.choice(_MODES))]

    def _utime(self) -> list[Act]:
        path = self._pick("file")
        if path is None or self.names[path].handles:
            return []
        return [Act("utime", path, number=self._random.randrange(10**18))]

    def _fsyncdir(self) -> list[Act]:
        return [Act("fsyncdir", self._pick("dir") or "")]


_MODES = (0o600, 0o644, 0o640, 0o755)

# What an actor may do, and how often.
_CHOICES = {
    "write_file": (Script._write_file, 30),
    "append": (Script._append, 10),
    "overwrite": (Script._overwrite, 8),
    "rewrite": (Script._rewrite, 8),
    "use_open": (Script._use_open, 14),
    "rename": (Script._rename, 8),
    "rename_dir": (Script._rename_dir, 2),
    "unlink": (Script._unlink, 14),
    "link": (Script._link, 3),
    "symlink": (Script._symlink, 2),
    "mkdir": (Script._mkdir, 4),
    "rmdir": (Script._rmdir, 2),
    "truncate": (Script._truncate, 5),
    "setxattr": (Script._setxattr, 4),
    "chmod": (Script._chmod, 3),
    "utime": (Script._utime, 3),
    "fsyncdir": (Script._fsyncdir, 3),
}


@lru_cache(maxsize=16)
def content(name: str) -> bytes:
    """Return the same 2.5 MB for the same name, with some zeros in."""
    source = random.Random(name)
    return source.randbytes(700_000) + bytes(20_000) + source.randbytes(1_780_000)


# What each act does to the state.


def _create(script: Script, act: Act) -> None:
    node = script.names[act.path] = Node("file")
    _add_handle(script, act, node)


def _open(script: Script, act: Act) -> None:
    _add_handle(script, act, script.names[act.path])


def _add_handle(script: Script, act: Act, node: Node) -> None:
    script.open[act.handle] = node
    node.handles += 1


def _write(script: Script, act: Act) -> None:
    script.open[act.handle].write(act.number, act.data)


def _close(script: Script, act: Act) -> None:
    node = script.open.pop(act.handle)
    node.handles -= 1
    node.settle()


def _fsync(script: Script, act: Act) -> None:
    script.open[act.handle].settle()


def _rename(script: Script, act: Act) -> None:
    moved = [path for path in script.names if path == act.path or path.startswith(f"{act.path}/")]
    for path in moved:
        script.names[act.other + path[len(act.path) :]] = script.names.pop(path)


def _remove(script: Script, act: Act) -> None:
    del script.names[act.path]


def _link(script: Script, act: Act) -> None:
    script.names[act.other] = script.names[act.path]


def _symlink(script: Script, act: Act) -> None:
    script.names[act.path] = Node("link", target=act.other, mode=0o777)


def _mkdir(script: Script, act: Act) -> None:
    script.names[act.path] = Node("dir", mode=act.number)


def _truncate(script: Script, act: Act) -> None:
    script.names[act.path].truncate(act.number)


def _setxattr(script: Script, act: Act) -> None:
    script.names[act.path].xattrs[act.other] = act.data


def _removexattr(script: Script, act: Act) -> None:
    del script.names[act.path].xattrs[act.other]


def _chmod(script: Script, act: Act) -> None:
    script.names[act.path].mode = act.number


def _utime(script: Script, act: Act) -> None:
    script.names[act.path].mtime_ns = act.number


def _nothing(_script: Script, _act: Act) -> None:
    pass


_EFFECTS = {
    "create": _create,
    "open": _open,
    "write": _write,
    "close": _close,
    "fsync": _fsync,
    "fsyncdir": _nothing,
    "rename": _rename,
    "unlink": _remove,
    "rmdir": _remove,
    "link": _link,
    "symlink": _symlink,
    "mkdir": _mkdir,
    "truncate": _truncate,
    "setxattr": _setxattr,
    "removexattr": _removexattr,
    "chmod": _chmod,
    "utime": _utime,
}
