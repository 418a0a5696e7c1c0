"""utimensat and futimens: what may be set, by whom, and what stays."""

from __future__ import annotations

import itertools
import os
from typing import Final

from mount.conformance.cases.things import KINDS, case, make, unique
from mount.conformance.model import ALICE, BOB, ROOT, TEAM_GID, Case, do
from mount.conformance.syscalls import UTIME_NOW, UTIME_OMIT

# Seconds within what ext4 keeps (1901 to 2446), with every nanosecond.
SPECS: Final = (
    (0, UTIME_NOW), (0, UTIME_OMIT), (0, 0), (1, 1), (1234567890, 123456789), (1700000000, 999999999),
    (-1, 0), (-1, 999999999), (-2147483648, 0), (2147483647, 999999999), (2147483648, 0), (4294967296, 7),
    (15032385535, 0), (0, 1000000000), (0, -1), (5, UTIME_NOW), (5, UTIME_OMIT),
)  # fmt: skip


def time_cases() -> list[Case]:
    """Return times set on every kind, by everyone, through path and handle."""
    made = []
    for kind in KINDS:
        for spec in SPECS:
            made.append(case(make(kind, "x"), do("utimens", "x", *spec, *SPECS[4])))
            made.append(case(make(kind, "x"), do("lutimens", "x", *SPECS[3], *spec)))
    for atime, mtime in itertools.product(SPECS, SPECS):
        made.append(case(make("file", "x"), do("utimens", "x", *atime, *mtime), do("lstat", "x")))
        made.append(
            case(
                (*make("file", "x"), do("open", "f", "x", os.O_RDWR)),
                do("futimens", "f", *atime, *mtime),
            )
        )
    few = (SPECS[0], SPECS[1], SPECS[4])
    for who, mode, kind in itertools.product(
        (ROOT, ALICE, BOB), (0, 0o444, 0o666, 0o060), ("file", "dir", "symlink", "fifo")
    ):
        for owner in ((ALICE.uid, ALICE.gid), (ROOT.uid, TEAM_GID)):
            setup = make(kind, "x", mode, *owner)
            made.append(case(setup, do("utime_now", "x", who=who)))
            made += [
                case(setup, do("utimens", "x", *a, *m, who=who))
                for a, m in itertools.product(few, few)
            ]
            made.append(case(setup, do("lutimens", "x", *few[2], *few[0], who=who)))
    return unique(made + _kept())


def _kept() -> list[Case]:
    """Times that were set stay set until something else changes them."""
    set_times = do("utimens", "x", 1000, 5, 2000, 6)
    opened = do("open", "f", "x", os.O_RDWR)
    after = (
        do("chmod", "x", 0o600), do("chown", "x", 3, 4), do("rename", "x", "y"), do("link", "x", "y"),
        do("setxattr", "x", "user.a", b"b"), do("open", "g", "x", os.O_RDONLY), do("truncate", "x", 0),
        do("truncate", "x", 12), do("truncate", "x", 100), do("open", "g", "x", os.O_WRONLY | os.O_TRUNC),
        do("pwrite", "f", b"a", 0), do("pwrite", "f", b"", 0), do("ftruncate", "f", 12), do("ftruncate", "f", 5),
        do("fsync", "f"), do("close", "f"), do("unlink", "x"), do("fchmod", "f", 0o644), do("stat", "x"),
        do("fallocate", "f", 0, 0, 5), do("open", "g", "x", os.O_WRONLY), do("utimens", "x", 0, UTIME_OMIT, 0, UTIME_OMIT),
    )  # fmt: skip
    made = []
    for step in after:
        made.append(case((*make("file", "x"), opened), set_times, step, do("lstat", "x")))
        # Data written first, times set then, closed last: the close must not bring today's time.
        made.append(
            case(
                (*make("file", "x"), opened),
                do("pwrite", "f", 5000, 3),
                set_times,
                step,
                do("close", "f"),
            )
        )
    made.append(case((do("open", "f", "x", os.O_RDWR | os.O_CREAT),), do("write", "f", 200000),
                     do("futimens", "f", 7, 8, 9, 10), do("close", "f"), do("lstat", "x")))  # fmt: skip
    made.append(case((do("put", "x", 9), do("open", "f", "x", os.O_RDWR), do("map", "f", 9, 1, 3)), do("map_write", "f", 0, b"m"),
                     do("map_sync", "f"), set_times, do("close", "f"), do("lstat", "x")))  # fmt: skip
    return made
