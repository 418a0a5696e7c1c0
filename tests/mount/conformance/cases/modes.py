"""Mode bits and owners: who may change them, what a change clears, what they allow."""

from __future__ import annotations

import itertools
import os
from typing import Final

from mount.conformance.cases.things import KINDS, case, make, unique
from mount.conformance.model import ALICE, BOB, EVERYONE, NOBODY, ROOT, TEAM_GID, Case, do
from mount.conformance.syscalls import AT_EACCESS, AT_SYMLINK_NOFOLLOW

# Owners a thing may have: alice's own group, a group alice is in, one she is not in.
OWNERS: Final = (
    (ROOT.uid, ROOT.gid), (ALICE.uid, ALICE.gid), (ALICE.uid, TEAM_GID), (ALICE.uid, BOB.gid), (BOB.uid, TEAM_GID),
)  # fmt: skip


def chmod_cases() -> list[Case]:
    """Return mode changes of every kind by everyone."""
    made = []
    modes = (
        0,
        0o111,
        0o644,
        0o777,
        0o1644,
        0o1777,
        0o2644,
        0o2755,
        0o4755,
        0o6711,
        0o7777,
        0o10644,
    )
    for kind, mode in itertools.product(KINDS, modes):
        made.append(case(make(kind, "x"), do("chmod", "x", mode)))
    for kind, owner, who, mode in itertools.product(
        ("file", "dir", "fifo", "todir"), OWNERS, (ALICE, BOB, NOBODY), (0, 0o1777, 0o2755, 0o6755)
    ):
        made.append(case(make(kind, "x", 0o644, *owner), do("chmod", "x", mode, who=who)))
    for kind, mode in itertools.product(("file", "dir"), modes):
        opened = do("open", "f", "x", os.O_RDONLY)
        made.append(case((*make(kind, "x"), opened), do("fchmod", "f", mode), do("fstat", "f")))
    return unique(made)


def chown_cases() -> list[Case]:
    """Return owner changes: to whom, by whom, and which mode bits they clear."""
    made = []
    ids = (
        (-1, -1), (ROOT.uid, -1), (ALICE.uid, -1), (BOB.uid, -1), (-1, ALICE.gid), (-1, TEAM_GID),
        (-1, BOB.gid), (ALICE.uid, TEAM_GID), (BOB.uid, BOB.gid), (2**32 - 2, 2**32 - 2),
    )  # fmt: skip
    modes = (0o777, 0o666, 0o2666, 0o4755, 0o2755, 0o6777, 0o6644, 0o7711)
    for kind, to, mode, who in itertools.product(("file", "dir"), ids, modes, (ROOT, ALICE, BOB)):
        made.append(
            case(make(kind, "x", mode, ALICE.uid, ALICE.gid), do("chown", "x", *to, who=who))
        )
    for kind, to, who in itertools.product(KINDS, ids, (ROOT, ALICE, BOB)):
        setup = make(kind, "x", 0o6755, ALICE.uid, TEAM_GID)
        made.append(case(setup, do("lchown", "x", *to, who=who)))
        made.append(case(setup, do("chown", "x", *to, who=who)))
    for to, mode, who in itertools.product(ids, modes, (ROOT, ALICE)):
        setup = (*make("file", "x", mode, ALICE.uid, TEAM_GID), do("open", "f", "x", os.O_RDONLY))
        made.append(case(setup, do("fchown", "f", *to, who=who), do("fstat", "f")))
    return unique(made)


def clearing_cases() -> list[Case]:
    """Return what clears setuid and setgid: data written and cut, not data left alone."""
    made = []
    modes = (0o777, 0o4777, 0o2777, 0o6777, 0o6666, 0o2767, 0o4666, 0o7777)
    # Files are opened in the setup, by root: whose write it is counts, not whose open.
    calls = (
        do("write", "f", b"data"), do("write", "f", b""), do("pwrite", "f", b"data", 5000),
        do("ftruncate", "f", 3), do("ftruncate", "f", 12), do("ftruncate", "f", 9000),
        do("truncate", "x", 0), do("truncate", "x", 12), do("writev", "f", b"a", b"b"),
        do("open", "g", "x", os.O_WRONLY | os.O_TRUNC), do("open", "g", "x", os.O_WRONLY),
        do("open", "g", "x", os.O_RDWR | os.O_CREAT, 0o600), do("posix_fallocate", "f", 0, 8000),
        do("setxattr", "x", "user.a", b"b"), do("utime_now", "x"), do("link", "x", "y"),
        do("rename", "x", "y"), do("read", "f", 3),
    )  # fmt: skip
    for mode, step, who in itertools.product(modes, calls, (ROOT, ALICE, BOB)):
        setup = (*make("file", "x", mode, ALICE.uid, ALICE.gid), do("open", "f", "x", os.O_RDWR))
        made.append(case(setup, do(step.call, *step.args, who=who), do("lstat", "x")))
    shared = (do("open", "f", "x", os.O_RDWR), do("map", "f", 12, 1, 3))
    for mode, who in itertools.product(modes, (ROOT, ALICE)):
        setup = (*make("file", "x", mode, ALICE.uid, ALICE.gid), *shared)
        made.append(
            case(setup, do("map_write", "f", 0, b"mapped", who=who), do("map_sync", "f", who=who))
        )
    return unique(made)


# What needs which permission on the folder d (its x, w, r) or the file d/f in it.
_FOLDER_CALLS: Final = (
    do("stat", "d/f"), do("open", "f", "d/new", os.O_CREAT | os.O_WRONLY), do("mkdir", "d/new"), do("unlink", "d/f"),
    do("rmdir", "d/e"), do("rename", "d/f", "d/g"), do("rename", "d/f", "out"), do("rename", "in", "d/new"),
    do("rename", "in", "d/f"), do("link", "in", "d/new"), do("symlink", "t", "d/new"), do("mkfifo", "d/new"),
    do("bind", "d/new"), do("listdir", "d"), do("chdir", "d"), do("readlink", "d/l"), do("chmod", "d/f", 0o600),
    do("open", "f", "d/f", os.O_RDONLY), do("truncate", "d/f", 1), do("access", "d/f", os.F_OK),
    do("listxattr", "d/f"), do("stat", "d/."), do("stat", "d/none"), do("link", "d/f", "out"),
    do("renameat2", "d/f", "in", 2),
)  # fmt: skip
_FILE_CALLS: Final = (
    *(do("open", "f", "x", flags) for flags in (
        os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC,
        os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_CREAT, os.O_RDONLY | os.O_NOATIME, os.O_PATH)),
    *(do("access", "x", mode) for mode in range(8)), do("access", "x", 8),
    *(do("faccessat", "x", mode, AT_EACCESS) for mode in (1, 2, 4)),
    do("faccessat", "x", 4, AT_SYMLINK_NOFOLLOW),
    do("truncate", "x", 1), do("utime_now", "x"), do("utimens", "x", 1, 0, 2, 0),
    do("setxattr", "x", "user.a", b"1"), do("getxattr", "x", "user.k"), do("removexattr", "x", "user.k"),
    do("setxattr", "x", "trusted.a", b"1"), do("listxattr", "x"), do("execute", "x"), do("link", "x", "y"),
)  # fmt: skip


def permission_cases() -> list[Case]:
    """Return calls against every mode of the folder or of the file, for owner, group and others."""
    made = []
    for bits, who in itertools.product(range(8), (ROOT, ALICE, BOB)):
        for shift, owner in (
            (6, (ALICE.uid, BOB.gid)),
            (3, (NOBODY.uid, TEAM_GID)),
            (0, (NOBODY.uid, NOBODY.gid)),
        ):
            mode = bits << shift
            folder = (
                do("dir", "d"), do("put", "d/f", b"content", 0o666), do("dir", "d/e"), do("symlink", "f", "d/l"),
                do("put", "in", b"moves", 0o666), do("lchown", "in", *owner), do("lchown", "d/f", *owner),
                do("chown", "d", *owner), do("chmod", "d", mode),
            )  # fmt: skip
            made += [case(folder, do(step.call, *step.args, who=who)) for step in _FOLDER_CALLS]
            file = (do("put", "x", b"#!/bin/true\n"), do("setxattr", "x", "user.k", b"v"),
                    do("chown", "x", *owner), do("chmod", "x", mode))  # fmt: skip
            made += [case(file, do(step.call, *step.args, who=who)) for step in _FILE_CALLS]
    for kind, mode, bits in itertools.product(KINDS, (0, 0o444, 0o755), (1, 2, 4)):
        made += [case(make(kind, "x", mode), do("access", "x", bits, who=who)) for who in EVERYONE]
    return unique(made)
