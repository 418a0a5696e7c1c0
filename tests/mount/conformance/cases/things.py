"""One of each kind of object, to be made at a path."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from mount.conformance.model import Case, Step, do

if TYPE_CHECKING:
    from collections.abc import Iterable

KINDS: Final = (
    "file",
    "dir",
    "full",
    "symlink",
    "todir",
    "dangling",
    "fifo",
    "socket",
    "chr",
    "blk",
)
SPECIAL: Final = ("fifo", "socket", "chr", "blk")


def make(kind: str, path: str, mode: int = 0o644, uid: int = 0, gid: int = 0) -> tuple[Step, ...]:
    """Return the steps that make a thing; "absent" makes nothing. Symlinks take no mode."""
    return (*_MAKERS[kind](path, mode), *_owned(kind, path, mode, uid, gid))


def _owned(kind: str, path: str, mode: int, uid: int, gid: int) -> tuple[Step, ...]:
    if (uid, gid) == (0, 0) or kind == "absent":
        return ()
    owner = do("lchown", path, uid, gid)
    if kind in {"symlink", "todir", "dangling"}:
        return (owner,)
    return (owner, do("chmod", path, mode))


def _dir_mode(mode: int) -> int:
    return 0o755 if mode == 0o644 else mode


def _node(kind: int, major: int, minor: int) -> object:
    return lambda path, mode: (do("mknod", path, kind | mode, major, minor),)


_MAKERS: Final = {
    "absent": lambda _path, _mode: (),
    "file": lambda path, mode: (do("put", path, b"content of " + path.encode(), mode),),
    "dir": lambda path, mode: (do("dir", path, _dir_mode(mode)),),
    "full": lambda path, mode: (do("dir", path, _dir_mode(mode)), do("put", f"{path}/inside")),
    "symlink": lambda path, _mode: (do("put", f"{path}.target", b"aim"),
                                    do("symlink", f"{path}.target", path)),
    "todir": lambda path, _mode: (do("dir", f"{path}.target"),
                                  do("symlink", f"{path}.target", path)),
    "dangling": lambda path, _mode: (do("symlink", f"{path}.nowhere", path),),
    "fifo": _node(stat.S_IFIFO, 0, 0),
    "socket": _node(stat.S_IFSOCK, 0, 0),
    "chr": _node(stat.S_IFCHR, 1, 3),
    "blk": _node(stat.S_IFBLK, 259, 4095),
}  # fmt: skip


def case(setup: Iterable[Step], *act: Step) -> Case:
    """Return a case named by what it does."""
    made = tuple(setup)
    before = "; ".join(map(str, made))
    return Case(f"{'; '.join(map(str, act))} [{before}]", made, act)


def unique(cases: Iterable[Case]) -> list[Case]:
    """Return the cases without repetitions, in order."""
    return list({one.name: one for one in cases}.values())
