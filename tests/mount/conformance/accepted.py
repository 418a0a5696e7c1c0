"""The differences from a plain directory that FUSE or the design settle, each with its reason."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mount.conformance.cases.data import FILE_MAX
from mount.conformance.cases.opens import TMPFILE
from mount.conformance.syscalls import RENAME_WHITEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from mount.conformance.model import Case, Step


@dataclass(frozen=True)
class Difference:
    """One value that differs: the answer of a step, or a field of an object after it."""

    case: Case
    step: Step | None  # None: found at the end of the case
    what: str  # "answer", or the field
    path: str  # of the object; "" for an answer
    plain: object
    mount: object
    io: str
    kind: object = None

    def __str__(self) -> str:
        """Return the line for the report."""
        when = self.step or "at the end"
        where = f": {self.path!r} {self.what}" if self.path else ""
        return f"{when}{where}: plain {self.plain}, mount {self.mount}"

    def flags(self) -> int:
        """Return the flags of an open, 0 for other calls."""
        if self.step is None or self.step.call != "open" or len(self.step.args) < 3:
            return 0
        return self.step.args[2] if isinstance(self.step.args[2], int) else 0

    def calls(self, *names: str) -> bool:
        """Return whether the step is one of these calls."""
        return self.step is not None and self.step.call in names


def _atime(it: Difference) -> bool:
    """Walks through a symlink and opens, too, read; only what sets times must set them."""
    sets = it.calls("utimens", "lutimens", "futimens", "utime_now") and it.kind != "symlink"
    return it.what == "atime" and (it.plain, it.mount) == ("new", "kept") and not sets


def _fallocate_reads(it: Difference) -> bool:
    """Without fallocate(2), libc reads a byte of each block and writes it back."""
    return it.what == "atime" and it.calls("posix_fallocate") and it.mount == "new"


def _tmpfile(it: Difference) -> bool:
    return it.flags() & TMPFILE == TMPFILE and it.mount in _UNSUPPORTED


def _whiteout(it: Difference) -> bool:
    flags = it.step.args[2] if it.step and it.calls("renameat2") else 0
    return isinstance(flags, int) and bool(flags & RENAME_WHITEOUT) and it.mount == "EINVAL"


def _device(it: Difference) -> bool:
    nodes = {step.args[0] for step in it.case.setup if step.call == "mknod" and step.args[2]}
    return it.calls("open") and it.step.args[1] in nodes and it.mount == "EACCES"


def _acl(it: Difference) -> bool:
    names = it.step.args if it.step else ()
    return it.mount in _UNSUPPORTED and any(
        str(name).startswith("system.posix_acl") for name in names
    )


def _hole_seek(it: Difference) -> bool:
    return it.calls("seek") and it.step.args[2] in {os.SEEK_DATA, os.SEEK_HOLE}


def _beyond(it: Difference) -> bool:
    """Whether the step passes ext4's limit."""
    return it.step is not None and any(
        isinstance(word, int) and word > FILE_MAX - 10000 for word in it.step.args
    )


def _setgid_kept(it: Difference) -> bool:
    """The protocol's HANDLE_KILLPRIV_V2 looks at the group's x; ext4 at who asks, too."""
    if it.what != "mode":
        return False
    plain, mount = int(str(it.plain), 8), int(str(it.mount), 8)
    return mount == plain | 0o2000 and not plain & 0o010


def _empty_chown(it: Difference) -> bool:
    """There is no setuid bit in any of these, and the setgid bit means no privilege."""
    modes = {step.args[-1] for step in it.case.setup if step.call == "chmod"}
    asked = it.calls("chown", "lchown", "fchown") and it.step.args[1:] == (-1, -1)
    return asked and (it.plain, it.mount) == ("EPERM", "ok") and modes == {0o2666}


def _size_limit(it: Difference) -> bool:
    return it.io == "writeback" and it.calls("write", "pwrite") and _at_limit(it)


def _at_limit(it: Difference) -> bool:
    """Whether the case writes where ext4's largest file ends."""
    return any(
        isinstance(word, int) and word > FILE_MAX - 10000
        for step in it.case.act
        for word in step.args
    )


TIME_MAX_NS: Final = (1 << 63) - 1
_UNSUPPORTED: Final = ("ENOTSUP", "EOPNOTSUPP")

# Once the answer to a call differs by one of these, the rest of the case is not compared.
ANSWERS: Final[dict[str, Callable[[Difference], bool]]] = {
    "pyfuse3 has no TMPFILE operation; the kernel answers for it": _tmpfile,
    "whiteouts are for the upper layer of an overlayfs, which dedupfs is not": _whiteout,
    "libfuse mounts with nodev": _device,
    "no ACLs: the permission checks are the kernel's default_permissions": _acl,
    "pyfuse3 has no fallocate operation; posix_fallocate writes instead": lambda it: (
        it.calls("fallocate") and it.mount in _UNSUPPORTED
    ),
    "pyfuse3 has no lseek operation; the kernel takes the whole file for data": _hole_seek,
    "FUSE cannot tell the kernel its file size limit; a seek goes anywhere": lambda it: (
        it.calls("seek") and _beyond(it)
    ),
    "to FUSE a setgid bit without group execute is none that chown(-1, -1) could drop": _empty_chown,
    "with the writeback cache no write meets the size limit, only fsync and close do": _size_limit,
    "posix_fallocate of glibc must read where the file system cannot allocate": lambda it: (
        it.calls("posix_fallocate") and (it.plain, it.mount) == ("ok", "EBADF")
    ),
    "pyfuse3 looks at XATTR_CREATE and XATTR_REPLACE, not at both together": lambda it: (
        it.calls("setxattr")
        and it.step.args[3:] == (3,)
        and (it.plain, it.mount) == ("ENODATA", "ok")
    ),
    "ext4 keeps attributes in one block; dedupfs takes what the kernel passes, 64 KiB": lambda it: (
        it.calls("setxattr") and it.plain == "ENOSPC" and it.mount == "ok"
    ),
}

FIELDS: Final[dict[str, Callable[[Difference], bool]]] = {
    "reads leave the atime: for FUSE the kernel does not keep it": _atime,
    "posix_fallocate reads: FUSE here has no fallocate, libc makes do": _fallocate_reads,
    "with the writeback cache part of a page is read before it is written": lambda it: (
        it.what == "atime" and it.io == "writeback" and it.calls("write", "pwrite")
    ),
    "without the writeback cache a mapped write is a write when its page is written back": lambda it: (
        it.what in {"mtime", "ctime"}
        and it.io == "passthrough"
        and any(step.call == "map_write" for step in it.case.act)
        and it.calls("map_write", "map_sync", "fsync", "close")
    ),
    "for FUSE setgid is dropped only where the group may execute": _setgid_kept,
    "ext4 sees that an attribute is set to what it was": lambda it: (
        it.what == "ctime" and it.calls("setxattr") and (it.plain, it.mount) == ("kept", "new")
    ),
    "posix_fallocate of glibc writes only where there was nothing": lambda it: (
        it.what in {"mtime", "ctime"} and it.calls("posix_fallocate") and it.mount == "kept"
    ),
    "times are 64 bits of nanoseconds, 1677 to 2262; ext4's end in 2446": lambda it: (
        it.what in {"atime", "mtime"} and it.mount == str(TIME_MAX_NS)
    ),
    "with the writeback cache the kernel keeps a truncate to the same size to itself": lambda it: (
        it.what in {"mtime", "ctime"}
        and it.calls("truncate")
        and it.io == "writeback"
        and (it.plain, it.mount) == ("new", "kept")
    ),
}
