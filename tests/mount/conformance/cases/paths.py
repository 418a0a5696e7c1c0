"""How every call takes every shape of path: missing, too long, through files, links and loops."""

from __future__ import annotations

import itertools
import os
from typing import Final

from mount.conformance.cases.things import case, make, unique
from mount.conformance.model import ALICE, ROOT, Case, Step, do

LONG: Final = "n" * 255
TOO_LONG: Final = "n" * 256

# A call with one path, "%" where it goes, and what else it is called with.
ONE_PATH: Final = (
    ("open", "f", "%", os.O_RDONLY | os.O_NONBLOCK), ("open", "f", "%", os.O_RDONLY | os.O_DIRECTORY),
    ("open", "f", "%", os.O_WRONLY | os.O_NONBLOCK), ("open", "f", "%", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK),
    ("open", "f", "%", os.O_RDWR | os.O_CREAT | os.O_EXCL), ("open", "f", "%", os.O_PATH),
    ("open", "f", "%", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK),
    ("mkdir", "%"), ("rmdir", "%"), ("unlink", "%"), ("mkfifo", "%"), ("bind", "%"),
    ("symlink", "anything", "%"), ("readlink", "%"), ("listdir", "%"), ("chdir", "%"),
    ("stat", "%"), ("lstat", "%"), ("statvfs", "%"), ("access", "%", os.R_OK | os.W_OK),
    ("access", "%", os.F_OK), ("access", "%", os.X_OK), ("chmod", "%", 0o600), ("chown", "%", 7, 8), ("lchown", "%", 7, 8),
    ("truncate", "%", 3), ("utime_now", "%"), ("utimens", "%", 1, 2, 3, 4), ("lutimens", "%", 1, 2, 3, 4),
    ("setxattr", "%", "user.a", b"b"), ("getxattr", "%", "user.a"), ("listxattr", "%"),
    ("removexattr", "%", "user.a"), ("lsetxattr", "%", "trusted.a", b"b"), ("lgetxattr", "%", "trusted.a"),
    ("rename", "%", "fresh"), ("rename", "file", "%"), ("rename", "empty", "%"),
    ("link", "%", "fresh"), ("link", "file", "%"), ("execute", "%"),
)  # fmt: skip

ZOO: Final = (
    *make("file", "file"), *make("dir", "empty"), *make("full", "full"),
    do("symlink", "file", "tofile"), do("symlink", "full", "todir"), do("symlink", "none", "dangling"),
    do("symlink", "none/deeper", "deepdangling"), do("symlink", "loop", "loop"),
    do("symlink", "loop2", "loop1"), do("symlink", "loop1", "loop2"),
    do("symlink", "file/inside", "throughfile"), do("symlink", "full/", "todirslash"),
)  # fmt: skip

SHAPES: Final = (
    "", ".", "..", "none", "none/none", "none/", "none/.", "none/..",
    "file", "file/", "file/.", "file/..", "file/none", "./file", "empty/../file", ".//file",
    "empty", "empty/", "empty//", "empty/.", "empty/..", "empty/none", "empty/none/",
    "full", "full/", "full/.", "full/..", "full/inside", "full/inside/",
    "tofile", "tofile/", "tofile/none", "todir", "todir/", "todir/.", "todir/inside", "todir/none",
    "todirslash", "todirslash/inside", "throughfile", "throughfile/",
    "dangling", "dangling/", "dangling/none", "deepdangling",
    "loop", "loop/", "loop/none", "loop1", "loop2/none",
)  # fmt: skip

_STEPS: Final = "./" * 2047  # 4094 bytes
LONG_SHAPES: Final = (
    (LONG, ()), (TOO_LONG, ()), (f"empty/{LONG}", ()), (f"empty/{TOO_LONG}", ()),
    (f"{TOO_LONG}/none", ()), (f"none/{TOO_LONG}", ()), (f"file/{TOO_LONG}", ()),
    (LONG, (do("put", LONG, b"long"),)), (f"{LONG}/none", (do("put", LONG, b"long"),)),
    (f"{LONG}/{LONG}", (do("dir", LONG),)), (f"{LONG}/", (do("dir", LONG),)),
    (f"{_STEPS}x", ()), (f"{_STEPS}xy", ()), (f"{_STEPS[2:]}file", ()), (f"{_STEPS[4:]}file", ()),
    (f"{_STEPS[4:]}nonefile", ()),
    ("\udcff\udcfe\n\t name", ()), ("name with spaces", (do("put", "name with spaces", b"x"),)),
    ("\u00e4\u6f22\u5b57", (do("dir", "\u00e4\u6f22\u5b57"),)),
    ("chain40", (do("chain", 41, "file"),)), ("chain41", (do("chain", 41, "file"),)),
    ("chain40", (do("chain", 41, "empty"),)), ("chain41", (do("chain", 41, "empty"),)),
    ("chain39/none", (do("chain", 41, "empty"),)), ("chain41/none", (do("chain", 41, "empty"),)),
    ("longlink", (do("symlink", "./" * 2045 + "file", "longlink"),)),
    ("utf-link", (do("symlink", "\udcff\udcfe", "utf-link"),)),
)  # fmt: skip


def _call(shape: str, words: tuple[int | str | bytes, ...]) -> Step:
    args = [shape if word == "%" else word for word in words[1:]]
    return do(str(words[0]), *args)


def path_cases() -> list[Case]:
    """Return every call with every shape of path."""
    made = [case(ZOO, _call(shape, words)) for words, shape in itertools.product(ONE_PATH, SHAPES)]
    made += [
        case((*make("file", "file"), *make("dir", "empty"), *more), _call(shape, words))
        for words, (shape, more) in itertools.product(ONE_PATH, LONG_SHAPES)
    ]
    return unique(made)


def symlink_cases() -> list[Case]:
    """Return symlinks with targets of every length, read back."""
    made = []
    for length in (0, 1, 2, 59, 60, 61, 254, 255, 256, 1023, 1024, 4094, 4095, 4096, 5000):
        made.append(case((), do("symlink", "t" * length, "link"), do("readlink", "link")))
    for kind in ("file", "dir", "symlink", "dangling", "fifo"):
        for who in (ROOT, ALICE):
            made.append(case(make(kind, "there"), do("symlink", "target", "there", who=who)))
            made.append(case(make(kind, "there"), do("readlink", "there", who=who)))
    return unique(made)
