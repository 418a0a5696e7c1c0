"""Every change a process makes to a folder, in order, as strace saw it: LMDB's included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NEVER = sys.maxsize
_CALLS = (
    "openat,write,pwrite64,writev,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,rename,"
    "renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,fsync,fdatasync,syncfs"
)
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(.*)")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)>")
_LSEEK = re.compile(r"(\d+)<(?:\\x[0-9a-f]{2})*>, (-?\d+), SEEK_SET")
_PUNCH = "FALLOC_FL_PUNCH_HOLE"


class File:
    """A file, whatever its names, made as `kind`; a directory where `is_folder`."""

    def __init__(self, kind: str = "", *, is_folder: bool) -> None:
        self.kind = kind
        self.is_folder = is_folder


@dataclass
class Change:
    """One change of a file's bytes or of a folder's names. `at` is the line in the record."""

    at: int
    kind: str  # "write", "truncate", "punch", "allocate", "names"
    file: File
    offset: int = 0
    length: int = 0
    data: bytes = b""
    names: dict[str, File | None] = field(default_factory=dict)
    durable_at: int = NEVER


@dataclass
class Sync:
    """A call that made changes durable: those before `begun`, once `at` is reached."""

    at: int
    begun: int
    label: str


class Recording:
    """What strace wrote about the changes under `root`, and about a log of acknowledgements."""

    def __init__(self, root: Path, log: Path) -> None:
        self.changes: list[Change] = []
        self.syncs: list[Sync] = []
        self.acknowledged: list[tuple[int, str]] = []
        self.root = File(is_folder=True)
        self._prefix = f"{root}/"
        self._root_path = str(root)
        self._log = str(log)
        self._files: dict[str, File] = {self._root_path: self.root}
        self._fds: dict[int, tuple[File, bool]] = {}  # file, whether O_DSYNC
        self._positions: dict[int, int] = {}
        self._unfinished: dict[str, tuple[int, str]] = {}

    def read(self, trace: Path) -> None:
        """Take in a trace; `at` counts its lines."""
        with trace.open() as lines:
            for at, line in enumerate(lines):
                self._line(at, line.rstrip("\n"))

    def log_at(self, at: int) -> str:
        """Return what was acknowledged before line `at`."""
        return "".join(text for when, text in self.acknowledged if when < at)

    def _line(self, at: int, line: str) -> None:
        begun = at
        if line.endswith(_UNFINISHED):
            self._unfinished[line.split(" ", 1)[0]] = at, line.removesuffix(_UNFINISHED)
            return
        resumed = _RESUMED.fullmatch(line)
        if resumed:
            if resumed[1] not in self._unfinished:
                return
            begun, first = self._unfinished.pop(resumed[1])
            line = first + resumed[2]
        found = _LINE.match(line)
        if found is None or found[4].startswith("-"):
            return
        handler = _HANDLERS.get(found[2])
        assert handler is not None, f"a call this recorder does not know: {line[:200]}"
        handler(self, _Call(at, begun, found[2], found[3], int(found[4])))

    def _at_path(self, path: str) -> bool:
        return path.startswith(self._prefix) or path == self._root_path

    def _name(self, at: int, path: str, file: File | None) -> None:
        self._names(at, {path: file})

    def _names(self, at: int, changed: dict[str, File | None]) -> None:
        folders = {os.path.dirname(path) for path in changed}
        assert len(folders) == 1, "a rename within one folder"
        folder = self._files[folders.pop()]
        names = {os.path.basename(path): file for path, file in changed.items()}
        self.changes.append(Change(at, "names", folder, names=names))
        for path, file in changed.items():
            if file is None:
                del self._files[path]
            else:
                self._files[path] = file

    def _open(self, call: _Call) -> None:
        path = call.paths()[-1]
        if not self._at_path(path):
            self._fds.pop(call.result, None)
            return
        file = self._files.get(path)
        if file is None:
            file = File(_class_of(path), is_folder=False)
            self._name(call.at, path, file)
        elif "O_TRUNC" in call.text:
            self.changes.append(Change(call.at, "truncate", file))
        self._fds[call.result] = file, "O_DSYNC" in call.text
        self._positions[call.result] = 0

    def _write(self, call: _Call) -> None:
        fd, path = call.descriptor()
        data = b"".join(bytes.fromhex(s.replace("\\x", "")) for s in _STRING.findall(call.text))
        data = data[: call.result]
        if path == self._log:
            self.acknowledged.append((call.at, data.decode()))
        if not self._at_path(path) or fd not in self._fds:
            return
        file, is_durable = self._fds[fd]
        if call.name.startswith("p"):
            has_flags = call.name == "pwritev2"
            offset = int(call.text.rsplit(", ", 1 + has_flags)[1])
        else:
            offset = self._positions[fd]
            self._positions[fd] = offset + len(data)
        change = Change(call.at, "write", file, offset, len(data), data)
        self.changes.append(change)
        if is_durable:
            change.durable_at = call.at
            self.syncs.append(Sync(call.at, call.begun, f"write O_DSYNC {_class_of(path)}"))

    def _seek(self, call: _Call) -> None:
        found = _LSEEK.match(call.text)
        if found:
            self._positions[int(found[1])] = call.result

    def _truncate(self, call: _Call) -> None:
        size = int(call.text.rsplit(", ", 1)[1])
        if call.name == "ftruncate":
            fd, path = call.descriptor()
            file = self._fds[fd][0] if self._at_path(path) and fd in self._fds else None
        else:
            file = self._files.get(call.paths()[0])
        if file is not None:
            self.changes.append(Change(call.at, "truncate", file, length=size))

    def _allocate(self, call: _Call) -> None:
        fd, path = call.descriptor()
        if self._at_path(path):
            mode, offset, length = call.text.rsplit(", ", 3)[1:]
            kind = "punch" if _PUNCH in mode else "allocate"
            self.changes.append(Change(call.at, kind, self._fds[fd][0], int(offset), int(length)))

    def _unlink(self, call: _Call) -> None:
        path = call.paths()[0]
        if self._at_path(path):
            self._name(call.at, path, None)

    def _make_folder(self, call: _Call) -> None:
        path = call.paths()[0]
        if self._at_path(path) and path != self._root_path:
            self._name(call.at, path, File(is_folder=True))

    def _rename(self, call: _Call) -> None:
        source, target = call.paths()
        if self._at_path(source):
            self._names(call.at, {source: None, target: self._files[source]})

    def _sync(self, call: _Call) -> None:
        fd, path = call.descriptor()
        is_all = call.name == "syncfs"
        if not self._at_path(path):
            return
        file = None if is_all else self._fds[fd][0]
        for change in self.changes:
            if (is_all or change.file is file) and change.at < call.begun:
                change.durable_at = min(change.durable_at, call.at)
        self.syncs.append(Sync(call.at, call.begun, f"{call.name} {_class_of(path)}"))


@dataclass
class _Call:
    at: int
    begun: int
    name: str
    text: str
    result: int

    def paths(self) -> list[str]:
        """Return the path arguments."""
        return [
            os.fsdecode(bytes.fromhex(text.replace("\\x", "")))
            for text in _STRING.findall(self.text)
        ]

    def descriptor(self) -> tuple[int, str]:
        """Return the first argument, a descriptor, and what it is of."""
        found = _DESCRIPTOR.match(self.text)
        if found is None:
            return -1, ""
        return int(found[1]), os.fsdecode(bytes.fromhex(found[2].replace("\\x", "")))


_HANDLERS = {
    "openat": Recording._open,
    "lseek": Recording._seek,
    "ftruncate": Recording._truncate,
    "truncate": Recording._truncate,
    "fallocate": Recording._allocate,
    "unlink": Recording._unlink,
    "unlinkat": Recording._unlink,
    "mkdir": Recording._make_folder,
    "mkdirat": Recording._make_folder,
    "rename": Recording._rename,
    "renameat": Recording._rename,
    "renameat2": Recording._rename,
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "pwritev2"), Recording._write),
    **dict.fromkeys(("fsync", "fdatasync", "syncfs"), Recording._sync),
}


def _class_of(path: str) -> str:
    """Return what a path of the store is, one word for all segments and for all journals."""
    name = os.path.basename(path)
    if name.startswith("journal-"):
        return "journal"
    return "segment" if os.path.basename(os.path.dirname(path)) == "segments" else name


def record(program: list[str | Path], root: Path, log: Path, trace: Path) -> Recording:
    """Run a program that changes files under `root` and return what it did."""
    command = ["strace", "-f", "-qq", "-y", "-xx", "-s", "99999999", "--seccomp-bpf"]
    done = subprocess.run(
        [*command, "-e", "signal=none", "-e", f"trace={_CALLS}", "-o", trace, *program],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recording = Recording(root, log)
    recording.read(trace)
    assert recording.acknowledged, "strace writes lines that this does not read"
    return recording
