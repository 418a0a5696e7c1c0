"""What is removed while it is open: it works on through its handle, and has no name."""

from __future__ import annotations

import itertools
import os

from mount.conformance.cases.things import case, unique
from mount.conformance.model import ALICE, ROOT, Case, do

_FILE = (
    do("put", "x", 10000, 0o666),
    do("setxattr", "x", "user.k", b"v"),
    do("open", "f", "x", os.O_RDWR),
)
_WAYS = (
    (do("unlink", "x"),),
    (do("put", "other", b"o"), do("rename", "other", "x")),
    (do("link", "x", "y"), do("unlink", "x")),
    (do("link", "x", "y"), do("unlink", "x"), do("unlink", "y")),
    (do("unlink", "x"), do("put", "x", b"another")),
)
_USES = (
    do("fstat", "f"), do("pread", "f", 20000, 0), do("pwrite", "f", b"more", 9998), do("ftruncate", "f", 5),
    do("ftruncate", "f", 1 << 30), do("fchmod", "f", 0o600), do("fchown", "f", 5, 6), do("futimens", "f", 1, 2, 3, 4),
    do("fgetxattr", "f", "user.k"), do("fsetxattr", "f", "user.n", b"new"), do("fsync", "f"), do("linkat_file", "f", "z"),
    do("linkat_proc", "f", "z"), do("reopen", "g", "f", os.O_RDWR), do("reopen", "g", "f", os.O_WRONLY | os.O_TRUNC),
    do("stat", "x"), do("map", "f", 10000, 1, 3), do("fallocate", "f", 0, 0, 5), do("close", "f"), do("fstat_same", "f", "x"),
)  # fmt: skip
_FOLDER_USES = (
    do("fstat", "d"), do("listdir_file", "d"), do("fchmod", "d", 0o700), do("fchown", "d", 1, 2), do("fsync", "d"),
    do("futimens", "d", 1, 2, 3, 4), do("fsetxattr", "d", "user.n", b"new"), do("reopen", "g", "d", os.O_RDONLY),
)  # fmt: skip


def unlinked_cases() -> list[Case]:
    """Return each way to remove an open file or folder with each use of its handle after."""
    made = []
    for way, use, who in itertools.product(_WAYS, _USES, (ROOT, ALICE)):
        made.append(
            case(
                _FILE,
                *way,
                do(use.call, *use.args, who=who),
                do("fstat", "f"),
                do("pread", "f", 20000, 0),
            )
        )
    folder = (do("dir", "d"), do("open", "d", "d", os.O_RDONLY))
    for use in _FOLDER_USES:
        made.append(case(folder, do("rmdir", "d"), use, do("fstat", "d"), do("listdir_file", "d")))
        made.append(case((*folder, do("dir", "e")), do("rename", "e", "d"), use, do("fstat", "d")))
        made.append(case(folder, do("rmdir", "d"), do("dir", "d"), use, do("listdir_file", "d")))
    return unique(made + _in_removed())


def _in_removed() -> list[Case]:
    """The working folder is gone: nothing can be made in it, and it lists as empty."""
    uses = (
        ("open", "f", "x", os.O_CREAT | os.O_WRONLY), ("open", "f", ".", os.O_RDONLY), ("mkdir", "x"), ("mkfifo", "x"),
        ("symlink", "t", "x"), ("listdir", "."), ("stat", "."), ("stat", "x"), ("getcwd",), ("chmod", ".", 0o700),
        ("rmdir", "."), ("rmdir", "../gone"), ("utime_now", "."), ("access", ".", os.W_OK), ("statvfs", "."),
        ("setxattr", ".", "user.a", b"b"), ("stat", ".."), ("chdir", "."), ("chdir", ".."), ("open", "f", "..", os.O_RDONLY),
    )  # fmt: skip
    made = []
    for who, use in itertools.product((ROOT, ALICE), uses):
        made.append(case((do("dir", "gone", 0o777),), do("in_removed", "gone", *use, who=who)))
    moves = (do("put", "file"), do("dir", "gone"), do("dir", "sub"))
    made += [
        case(moves, do("in_removed", "gone", "rename", "../file", "x")),
        case(moves, do("in_removed", "gone", "rename", "../sub", "x")),
        case(moves, do("in_removed", "gone", "link", "../file", "x")),
    ]
    return made
