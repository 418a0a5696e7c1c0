"""Extended attributes: flags, sizes, names and namespaces, on every kind, by everyone."""

from __future__ import annotations

import itertools
import os

from mount.conformance.cases.things import KINDS, case, make, unique
from mount.conformance.model import ALICE, BOB, EVERYONE, ROOT, Case, do

NAMES = ("user.a", "user.", "user", "trusted.a", "trusted.", "security.a", "security.capability", "security.selinux",
         "system.a", "system.posix_acl_access", "system.posix_acl_default", "system.sockprotoname", "other.a", "a", "", "user.\u00e4",
         "user." + "n" * 250, "user." + "n" * 251, "trusted." + "n" * 247, "trusted." + "n" * 248)  # fmt: skip


def attribute_cases() -> list[Case]:
    """Return set, get, list and remove with everything that may go wrong."""
    made = []
    create, replace = os.XATTR_CREATE, os.XATTR_REPLACE
    for kind, name in itertools.product(KINDS, NAMES):
        made.append(case(make(kind, "x"), do("lsetxattr", "x", name, b"value"), do("lgetxattr", "x", name),
                         do("lremovexattr", "x", name), do("lremovexattr", "x", name)))  # fmt: skip
    for name, flags in itertools.product(
        ("user.a", "trusted.a"), (0, create, replace, create | replace, 4)
    ):
        have = (*make("file", "x"), do("setxattr", "x", name, b"old"))
        made.append(
            case(
                make("file", "x"),
                do("setxattr", "x", name, b"new", flags),
                do("getxattr", "x", name),
            )
        )
        made.append(case(have, do("setxattr", "x", name, b"new", flags), do("getxattr", "x", name)))
        made.append(
            case(
                have,
                do("setxattr", "x", name, b"old", flags),
                do("setxattr", "x", name, b"", flags),
            )
        )
    for size in (0, 1, 63, 255, 1000, 3000, 3900, 4096, 5000, 20000, 65535, 65536, 65537, 100000):
        made.append(case(make("file", "x"), do("setxattr", "x", "user.a", size), do("getxattr", "x", "user.a"),
                         do("setxattr", "x", "user.a", 5), do("getxattr", "x", "user.a")))  # fmt: skip
    many = [do("setxattr", "x", f"user.{number:03}", b"v") for number in range(60)]
    made.append(
        case(
            (*make("file", "x"), *many),
            do("listxattr", "x"),
            do("removexattr", "x", "user.030"),
            do("listxattr", "x"),
        )
    )
    return unique(made + _as_users() + _moves())


def _as_users() -> list[Case]:
    made = []
    calls = (("lsetxattr", b"v"), ("lgetxattr",), ("lremovexattr",))
    for kind, mode, who, name in itertools.product(("file", "dir", "symlink", "fifo", "socket"), (0, 0o444, 0o666, 0o1777),
                                                   EVERYONE, ("user.a", "trusted.a", "security.a")):  # fmt: skip
        setup = make(kind, "x", mode, ALICE.uid, ALICE.gid)
        have = (
            (*setup, do("lsetxattr", "x", name, b"there"))
            if name != "user.a" or kind in {"file", "dir"}
            else setup
        )
        made += [case(have, do(words[0], "x", name, *words[1:], who=who)) for words in calls]
        made.append(case(have, do("listxattr", "x", who=who)))
    for who in (ROOT, ALICE, BOB):
        for name in ("logical", "physical_share", "exclusive", "extents"):
            made.append(
                case(
                    make("file", "x", 0o644, ALICE.uid, ALICE.gid),
                    do("removexattr", "x", f"user.none.{name}", who=who),
                )
            )
    return made


def _moves() -> list[Case]:
    """Attributes belong to the object: they follow it through names, links and handles."""
    have = (
        *make("file", "x"),
        do("setxattr", "x", "user.a", b"value"),
        do("open", "f", "x", os.O_RDWR),
    )
    return [
        case(have, do("rename", "x", "y"), do("getxattr", "y", "user.a")),
        case(have, do("link", "x", "y"), do("getxattr", "y", "user.a"), do("setxattr", "y", "user.b", b"2"), do("listxattr", "x")),
        case(have, do("unlink", "x"), do("fgetxattr", "f", "user.a"), do("fsetxattr", "f", "user.b", b"2"), do("fgetxattr", "f", "user.b")),
        case(have, do("unlink", "x"), do("put", "x", b"new"), do("getxattr", "x", "user.a"), do("fgetxattr", "f", "user.a")),
        case(have, do("truncate", "x", 0), do("chmod", "x", 0), do("getxattr", "x", "user.a")),
        case((*have, do("put", "y", b"y")), do("rename", "y", "x"), do("getxattr", "x", "user.a"), do("fgetxattr", "f", "user.a")),
        case((*have, do("put", "y", b"y")), do("renameat2", "y", "x", 2), do("getxattr", "y", "user.a"), do("getxattr", "x", "user.a")),
    ]  # fmt: skip
