"""Names that move, go and come: rename and its flags, link, unlink, rmdir, mkdir, mknod."""

from __future__ import annotations

import itertools
import os
import stat

from mount.conformance.cases.things import KINDS, case, make, unique
from mount.conformance.model import ALICE, BOB, EVERYONE, ROOT, TEAM_GID, Case, do
from mount.conformance.syscalls import (
    AT_SYMLINK_FOLLOW,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
)

TARGETS = ("absent", *KINDS)
FLAGS = (0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT,
         RENAME_NOREPLACE | RENAME_EXCHANGE, RENAME_WHITEOUT | RENAME_NOREPLACE, 8)  # fmt: skip


def rename_cases() -> list[Case]:
    """Return renames of every kind over every kind, with every flag, in one folder and across."""
    made = []
    for old, new, flags in itertools.product(TARGETS, TARGETS, FLAGS):
        both = (*make(old, "old"), *make(new, "new"))
        made.append(case(both, do("renameat2", "old", "new", flags)))
        if flags <= RENAME_EXCHANGE:
            folders = (do("dir", "a"), do("dir", "b"), *make(old, "a/old"), *make(new, "b/new"))
            made.append(case(folders, do("renameat2", "a/old", "b/new", flags)))
    return unique(made + _odd_renames() + _renames_of_dirs_as_users())


def _odd_renames() -> list[Case]:
    tree = (do("dirs", "a/b/c"), do("put", "a/file", b"1"), do("link", "a/file", "a/hard"),
            do("link", "a/file", "other"), do("dir", "empty"))  # fmt: skip
    pairs = (
        ("a", "a"), ("a/file", "a/file"), ("a/file", "a/hard"), ("a/file", "other"), ("a", "a/b"),
        ("a", "a/x"), ("a", "a/b/c/x"), ("a/b/c", "a"), ("a/b/c", "a/b"), ("a/b", "b"), ("a", "empty"),
        ("a/b", "empty"), ("empty", "a"), ("empty", "a/b/c"), ("a", "."), (".", "x"), ("a", ".."),
        ("..", "x"), ("a/.", "x"), ("a/..", "x"), ("a", "x/."), ("a", "x/"), ("a/", "x"), ("a/", "x/"),
        ("a/file/", "x"), ("a/file", "x/"), ("a/file", "a/hard/"), ("a/file", "empty/"),
        ("a/b/../file", "x"), ("a/b/c/..", "x"), ("a/file", "/proc/x"), ("a", "/proc/x"),
        ("a/file", "n" * 255), ("a/file", "n" * 256), ("n" * 256, "x"), ("a", "n" * 255),
    )  # fmt: skip
    return [
        case(tree, do("renameat2", old, new, flags), do("stat", "a"), do("stat", "x"))
        for old, new in pairs
        for flags in (0, RENAME_NOREPLACE, RENAME_EXCHANGE)
    ]


def _renames_of_dirs_as_users() -> list[Case]:
    """A directory that moves writes its "..": that wants write permission on the directory."""
    made = []
    for who, mode, kind in itertools.product(EVERYONE, (0o000, 0o500, 0o555, 0o700, 0o777), KINDS):
        setup = (do("dir", "a", 0o777), do("dir", "b", 0o777),
                 *make(kind, "a/x", mode, ALICE.uid, ALICE.gid))  # fmt: skip
        made.append(case(setup, do("rename", "a/x", "b/y", who=who)))
        made.append(case(setup, do("rename", "a/x", "a/y", who=who)))
    return made


def sticky_cases() -> list[Case]:
    """Return what users may remove and move in folders of each other, sticky and not."""
    owners = (ROOT, ALICE, BOB)
    made = []
    for sticky, folder, thing, who in itertools.product((0, 0o1000), owners, owners, (*owners,)):
        place = (do("dir", "d", 0o777 | sticky), do("chown", "d", folder.uid, folder.gid))
        own = (do("dir", "own", 0o777), do("chown", "own", who.uid, who.gid))
        for kind in ("file", "dir", "symlink", "fifo"):
            setup = (*place, *own, *make(kind, "d/x", 0o666, thing.uid, thing.gid))
            made.append(case(setup, do("rename", "d/x", "d/y", who=who)))
            made.append(case(setup, do("rename", "d/x", "own/y", who=who)))
            made.append(case(setup, do("rmdir" if kind == "dir" else "unlink", "d/x", who=who)))
            over = (*setup, *make(kind, "own/mine", 0o666, who.uid, who.gid))
            made.append(case(over, do("rename", "own/mine", "d/x", who=who)))
            made.append(case(over, do("renameat2", "own/mine", "d/x", RENAME_EXCHANGE, who=who)))
    return unique(made)


def link_cases() -> list[Case]:
    """Return links of every kind onto every kind, as root and as others."""
    made = []
    for old, new, flags in itertools.product(TARGETS, TARGETS, (0, AT_SYMLINK_FOLLOW)):
        both = (*make(old, "old"), *make(new, "new"))
        made.append(case(both, do("linkat", "old", "new", flags)))
    for kind, who, mode in itertools.product(
        KINDS, EVERYONE, (0o000, 0o444, 0o666, 0o4755, 0o2755)
    ):
        made.append(
            case(make(kind, "x", mode, ALICE.uid, ALICE.gid), do("linkat", "x", "y", 0, who=who))
        )
    hard = (do("put", "x", b"1"), do("link", "x", "y"), do("dir", "d"), do("link", "x", "d/z"))
    for path in ("x", "y", "d/z"):
        made.append(case(hard, do("unlink", path), do("chmod", "y", 0o600), do("unlink", "y"),
                         do("truncate", "x", 0), do("unlink", "x")))  # fmt: skip
    made.append(case(hard, do("unlink", "x"), do("rename", "y", "d/z"), do("lstat", "y")))
    made.append(case(hard, do("rename", "x", "y"), do("rename", "d/z", "x"), do("lstat", "d/z")))
    return unique(made)


def remove_cases() -> list[Case]:
    """Return unlink and rmdir of every kind, by everyone, from folders of every mode."""
    made = []
    for kind, call in itertools.product(TARGETS, ("unlink", "rmdir")):
        made.append(case(make(kind, "x"), do(call, "x"), do("lstat", "x"), do(call, "x")))
    for flags in (0, 0x200, 1, 0x400):
        made.extend(case(make(kind, "x"), do("unlinkat", "x", flags)) for kind in TARGETS)
    for kind, who, mode in itertools.product(
        KINDS, EVERYONE, (0, 0o300, 0o500, 0o600, 0o700, 0o755, 0o775, 0o777)
    ):
        setup = (
            do("dir", "d"),
            *make(kind, "d/x"),
            do("chown", "d", ALICE.uid, TEAM_GID),
            do("chmod", "d", mode),
        )
        call = "rmdir" if kind in {"dir", "full"} else "unlink"
        made.append(case(setup, do(call, "d/x", who=who)))
    return unique(made)


def create_cases() -> list[Case]:
    """Return the making of every kind: over every kind, with every umask, in setgid folders."""
    made = []
    modes = (0, 0o644, 0o777, 0o1777, 0o2755, 0o4755, 0o6777)
    kinds = (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK,
             stat.S_IFDIR, stat.S_IFLNK, 0o130000)  # fmt: skip
    for kind, there in itertools.product(kinds, TARGETS):
        made.append(case(make(there, "x"), do("mknod", "x", kind | 0o644, 1, 3)))
    for kind, who, umask in itertools.product(kinds, EVERYONE, (0, 0o022, 0o077, 0o777)):
        made.extend(
            case((), do("mknod", "x", kind | mode, 7, 9, who=who, umask=umask))
            for mode in (0o666, 0o2777)
        )
    for device in ((0, 0), (1, 255), (1, 256), (255, 1), (4095, 1048575), (259, 70000)):
        made.extend(
            case((), do("mknod", "x", kind | 0o600, *device))
            for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO)
        )
    for mode, who, umask in itertools.product(modes, EVERYONE, (0, 0o022, 0o027, 0o177, 0o777)):
        made.append(case((), do("mkdir", "x", mode, who=who, umask=umask)))
        made.append(
            case((), do("open", "f", "x", os.O_WRONLY | os.O_CREAT, mode, who=who, umask=umask))
        )
        made.append(case((), do("mkfifo", "x", mode, who=who, umask=umask)))
    for mode, who, gid in itertools.product(
        (0o777, 0o2777, 0o3777), EVERYONE, (0, TEAM_GID, BOB.gid)
    ):
        setup = (do("dir", "d"), do("chown", "d", 0, gid), do("chmod", "d", mode))
        for own in (0o755, 0o2755, 0o2745, 0o6777):
            made.append(case(setup, do("mkdir", "d/x", own, who=who)))
            made.append(case(setup, do("mknod", "d/x", stat.S_IFREG | own, who=who)))
            made.append(case(setup, do("mkfifo", "d/x", own, who=who)))
            made.append(case(setup, do("open", "f", "d/x", os.O_RDWR | os.O_CREAT, own, who=who)))
        made.append(case(setup, do("symlink", "t", "d/x", who=who)))
        made.append(case(setup, do("bind", "d/x", who=who)))
    return unique(made)
