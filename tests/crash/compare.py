"""What is found after a crash against what may be: the first difference, in words."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crash.acts import Node

PROBLEM_BYTES = 16


@dataclass
class Found:
    """What lies under one path."""

    kind: str
    ino: int
    nlink: int
    mode: int
    mtime_ns: int
    content: bytes = b""
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)


def found_on_disk(root: Path) -> dict[str, Found]:
    """Read everything below `root` (itself as ""); empty when it is not there."""
    if not root.exists():
        return {}
    return {str(path)[len(str(root)) :]: _found(path) for path in _walk(root)}


def _walk(root: Path) -> Iterator[Path]:
    yield root
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield Path(folder) / name


def _found(path: Path) -> Found:
    is_link = path.is_symlink()
    status = path.lstat()
    kind = "link" if is_link else "dir" if stat.S_ISDIR(status.st_mode) else "file"
    return Found(
        kind, status.st_ino, status.st_nlink, stat.S_IMODE(status.st_mode), status.st_mtime_ns,
        content=path.read_bytes() if kind == "file" else b"",
        target=str(path.readlink()) if is_link else "",
        xattrs={} if is_link else {name: os.getxattr(path, name) for name in os.listxattr(path)},
    )  # fmt: skip


def difference(want: dict[str, Node], have: dict[str, Found]) -> str:
    """Return the first difference, or "" when `have` is a state that `want` allows."""
    if want.keys() != have.keys():
        missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
        return f"missing {missing[:4]}, not expected {extra[:4]}"
    names: dict[int, int] = {}
    for node in want.values():
        names[id(node)] = names.get(id(node), 0) + 1
    inos: dict[int, int] = {}
    for path, node in want.items():
        found = have[path]
        problem = _node_difference(node, found)
        if not problem and node.kind != "dir" and found.nlink != names[id(node)]:
            problem = f"{found.nlink} links, want {names[id(node)]}"
        if not problem and inos.setdefault(id(node), found.ino) != found.ino:
            problem = "hard links are no longer one file"
        if problem:
            return f"{path!r}: {problem}"
    return ""


def _node_difference(node: Node, found: Found) -> str:
    for name in ("kind", "mode", "target", "xattrs"):
        want, have = getattr(node, name), getattr(found, name)
        if want != have:
            return f"{name} {have!r}, want {want!r}"
    if node.kind != "file":
        return ""
    if node.mtime_ns is not None and node.mtime_ns != found.mtime_ns and not node.handles:
        return f"mtime {found.mtime_ns}, want {node.mtime_ns}"
    return content_difference(node.versions, found.content)


def content_difference(versions: list[bytes], have: bytes) -> str:
    """Return "" when each byte of `have` is one of the versions' at its place."""
    if have in versions:
        return ""
    sizes = [len(version) for version in versions]
    if not min(sizes) <= len(have) <= max(sizes):
        return f"{len(have)} bytes, want one of {sizes}"
    got = np.frombuffer(have, np.uint8)
    allowed = np.zeros(len(have), bool)
    for version in versions:
        allowed |= got == np.frombuffer(version[: len(have)].ljust(len(have), b"\0"), np.uint8)
    wrong = np.flatnonzero(~allowed)
    if not len(wrong):
        return ""
    at = int(wrong[0])
    want = [version[at : at + PROBLEM_BYTES].hex() for version in versions]
    return (
        f"{len(wrong)} of {len(have)} bytes wrong from {at}: "
        f"{have[at : at + PROBLEM_BYTES].hex()}, want one of {want}"
    )
