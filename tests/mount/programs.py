"""Runs other people's programs for the tests, and compares the trees they leave."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 100,
    codes: tuple[int, ...] = (0,),
) -> str:
    """Run a program and return its output; its exit code must be one of `codes`."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode in codes, f"{command[0]} ended with {done.returncode}:\n{output[-6000:]}"
    return output


def drop_caches() -> bool:
    """Write back and empty the kernel's page, dentry and inode caches; False if not permitted."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], timeout_s: float, step_s: float = 0.1) -> bool:
    """Return whether the condition came true in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(step_s)
    return True


@dataclass(frozen=True)
class Entry:
    """What a copy of a file must keep, times in ns; `content` is a digest or a link's target."""

    mode: int
    owner: tuple[int, int]
    links: int
    mtime_ns: int
    size: int
    content: str


def _content(path: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if not stat.S_ISREG(mode):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _entry(path: str) -> Entry:
    info = os.lstat(path)
    is_folder = stat.S_ISDIR(info.st_mode)
    return Entry(
        mode=info.st_mode,
        owner=(info.st_uid, info.st_gid),
        links=0 if is_folder else info.st_nlink,
        mtime_ns=info.st_mtime_ns,
        size=0 if is_folder else info.st_size,
        content=_content(path, info.st_mode),
    )


def tree(top: Path) -> dict[str, Entry]:
    """Return everything below `top` by its relative path; sizes and links of folders are left out."""
    found = {}
    inodes: dict[str, int] = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top)] = _entry(path)
            inodes[os.path.relpath(path, top)] = os.lstat(path).st_ino
    # A package manager may have linked a file of the tree to its cache: that is not copied.
    names = Counter(inodes.values())
    return {
        name: replace(entry, links=min(entry.links, names[inodes[name]]))
        for name, entry in found.items()
    }


def assert_same_tree(ours: Path, theirs: Path) -> None:
    """Names, types, modes, owners, mtimes, link counts and contents must be equal."""
    left, right = tree(ours), tree(theirs)
    assert left.keys() == right.keys(), sorted(left.keys() ^ right.keys())[:20]
    unequal = {name: (left[name], right[name]) for name in left if left[name] != right[name]}
    assert not unequal, dict(list(unequal.items())[:5])
