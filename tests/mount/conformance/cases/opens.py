"""open(2): every combination of flags, on every kind of object."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Final

from mount.conformance.cases.things import KINDS, case, make, unique
from mount.conformance.model import ALICE, BOB, ROOT, Case, do

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TMPFILE: Final = getattr(os, "O_TMPFILE", 0o20200000)
_OPTIONS: Final = (os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW)


def _sums(options: Iterable[int]) -> Iterator[int]:
    for chosen in itertools.product(*((0, option) for option in options)):
        yield sum(chosen)


def open_cases() -> list[Case]:
    """Return opens with all flags of every kind of object, then what the handle is good for."""
    made = []
    for kind in ("absent", *KINDS):
        for access, flags in itertools.product(
            (os.O_RDONLY, os.O_WRONLY, os.O_RDWR), _sums(_OPTIONS)
        ):
            opened = do("open", "f", "x", access | flags | os.O_NONBLOCK)
            if kind in {"file", "absent", "dir"}:
                made.append(
                    case(make(kind, "x"), opened, do("fstat", "f"), do("write", "f", b"new"))
                )
            else:
                made.append(case(make(kind, "x"), opened))
        for flags in (os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_PATH | os.O_DIRECTORY, os.O_NOATIME,
                      os.O_SYNC | os.O_WRONLY | os.O_NONBLOCK, os.O_DSYNC | os.O_RDWR | os.O_NONBLOCK,
                      os.O_ASYNC | os.O_NONBLOCK, os.O_NOCTTY | os.O_NONBLOCK, 3 | os.O_NONBLOCK):  # fmt: skip
            made.append(
                case(make(kind, "x"), do("open", "f", "x", flags | os.O_NONBLOCK), do("fstat", "f"))
            )
        for flags in (TMPFILE | os.O_RDWR, TMPFILE | os.O_WRONLY | os.O_EXCL, TMPFILE):
            made.append(case(make(kind, "x"), do("open", "f", "x", flags)))
    return unique(made + _as_users() + _handles())


def _as_users() -> list[Case]:
    """A file is created with any mode, and still open for what was asked."""
    made = []
    for mode, access, who in itertools.product((0, 0o200, 0o400, 0o4777), range(3), (ROOT, ALICE)):
        opened = do("open", "f", "x", os.O_CREAT | access, mode, who=who)
        made.append(
            case((), opened, do("write", "f", b"1", who=who), do("pread", "f", 9, 0, who=who))
        )
    # protected_regular and protected_fifos look at sticky world-writable folders.
    for owner, who, kind in itertools.product((ALICE, BOB), (ROOT, ALICE, BOB), ("file", "fifo")):
        for mode in (0o1777, 0o1770, 0o777):
            setup = (do("dir", "d", mode), *make(kind, "d/x", 0o666, owner.uid, owner.gid))
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK
            made.append(case(setup, do("open", "f", "d/x", flags, who=who)))
    return made


def _handles() -> list[Case]:
    """What a handle allows is settled when it is opened."""
    made = []
    uses = (
        do("read", "f", 4), do("write", "f", b"w"), do("ftruncate", "f", 2), do("fsync", "f"), do("fdatasync", "f"),
        do("fchmod", "f", 0o600), do("fchown", "f", 1, 2), do("futimens", "f", 1, 2, 3, 4), do("fgetxattr", "f", "user.k"),
        do("fsetxattr", "f", "user.n", b"v"), do("listdir_file", "f"), do("seek", "f", 3, os.SEEK_SET),
        do("map", "f", 7, 1, 1), do("map", "f", 7, 1, 3), do("map", "f", 7, 2, 3), do("fallocate", "f", 0, 0, 100),
        do("linkat_file", "f", "y"), do("linkat_proc", "f", "y"), do("reopen", "g", "f", os.O_RDWR),
        do("fstat_same", "f", "x"),
    )  # fmt: skip
    for kind, flags in itertools.product(
        ("file", "dir"), (0, 1, 2, os.O_PATH, os.O_WRONLY | os.O_APPEND)
    ):
        if kind == "dir" and flags & 3:
            continue
        setup = (*make(kind, "x"), do("setxattr", "x", "user.k", b"v"), do("open", "f", "x", flags))
        made += [case(setup, use) for use in uses]
    gone = (
        do("put", "x", b"data"),
        do("open", "f", "x", os.O_RDWR),
        do("chmod", "x", 0),
        do("chown", "x", 1, 1),
    )
    made += [case(gone, do("write", "f", b"more", who=ALICE), do("pread", "f", 9, 0, who=ALICE))]
    return made
