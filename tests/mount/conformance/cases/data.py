"""Bytes and sizes: truncate, write, append, seek, allocate, map."""

from __future__ import annotations

import itertools
import mmap
import os
from typing import Final

from mount.conformance import syscalls
from mount.conformance.cases.things import KINDS, case, make, unique
from mount.conformance.model import ALICE, EVERYONE, Case, do

SIZES: Final = (0, 1, 4095, 4096, 4097, 65536, (1 << 20) + 1)
FILE_MAX: Final = (1 << 44) - 4096  # ext4, 4 KiB blocks
NEW_SIZES: Final = (
    0, 1, 4095, 4096, 4097, 65537, 1 << 21, 1 << 32, (1 << 32) + 5, FILE_MAX - 1, FILE_MAX, FILE_MAX + 1,
    1 << 44, 1 << 62, (1 << 63) - 1, -1, -(1 << 63),
)  # fmt: skip


def truncate_cases() -> list[Case]:
    """Return cuts and growths, and what is read after them."""
    made = []
    for size, new in itertools.product(SIZES, NEW_SIZES):
        setup = (do("put", "x", size), do("open", "f", "x", os.O_RDWR))
        made.append(
            case(
                setup,
                do("truncate", "x", new),
                do("pread", "f", 9000, max(0, min(size, new) - 4000)),
            )
        )
        made.append(case(setup, do("ftruncate", "f", new), do("fstat", "f")))
        made.append(
            case(
                setup,
                do("ftruncate", "f", new),
                do("ftruncate", "f", size),
                do("pread", "f", 1 << 21, 0),
            )
        )
        made.append(
            case(
                setup,
                do("pwrite", "f", b"tail", size),
                do("ftruncate", "f", new),
                do("ftruncate", "f", 1 << 21),
            )
        )
    for size in NEW_SIZES:
        made.append(
            case((do("put", "x", 9), do("open", "f", "x", os.O_RDONLY)), do("ftruncate", "f", size))
        )
        made.append(
            case((do("dir", "x"), do("open", "f", "x", os.O_RDONLY)), do("ftruncate", "f", size))
        )
    for kind, who, size in itertools.product(KINDS, EVERYONE, (0, 4, 100, -1)):
        made.append(
            case(make(kind, "x", 0o644, ALICE.uid, ALICE.gid), do("truncate", "x", size, who=who))
        )
    return unique(made)


def write_cases() -> list[Case]:
    """Return writes of every length everywhere, positional, vectored, appending, together."""
    made = []
    offsets = (0, 1, 4095, 4096, 100000, 1 << 20, (1 << 32) + 1, FILE_MAX - 10, FILE_MAX - 1, FILE_MAX, 1 << 44, 1 << 62,
               (1 << 63) - 5, -1, -(1 << 63))  # fmt: skip
    for offset, length, flags in itertools.product(offsets, (0, 1, 10, 5000), (0, os.O_APPEND)):
        setup = (do("put", "x", 5000), do("open", "f", "x", os.O_RDWR | flags))
        made.append(case(setup, do("pwrite", "f", length, offset), do("fstat", "f"), do("pread", "f", 6000, 4000),
                         do("fsync", "f")))  # fmt: skip
        made.append(case(setup, do("pread", "f", length, offset)))
        if offset >= 0:
            made.append(
                case(
                    setup,
                    do("seek", "f", offset, 0),
                    do("write", "f", length),
                    do("fstat", "f"),
                    do("close", "f"),
                )
            )
    both = (
        do("put", "x", b""),
        do("open", "f", "x", os.O_WRONLY | os.O_APPEND),
        do("open", "g", "x", os.O_WRONLY | os.O_APPEND),
    )
    made.append(case(both, do("append_twice", "f", "g", 200), do("fstat", "f")))
    rw = (do("put", "x", 70000), do("open", "f", "x", os.O_RDWR), do("open", "g", "x", os.O_RDWR))
    made += [
        case(rw, do("writev", "f", b"one", b"", b"two", 5000), do("pread", "g", 6000, 0)),
        case(rw, do("pwritev2", "f", b"flag", 10, os.RWF_DSYNC), do("pread", "g", 100, 0)),
        case(rw, do("pwritev2", "f", b"flag", 10, os.RWF_SYNC), do("fstat", "g")),
        case(rw, do("pwritev2", "f", b"flag", 10, os.RWF_APPEND), do("fstat", "g")),
        case(rw, do("pwritev2", "f", b"flag", 10, 1 << 20)),
        case(rw, do("preadv2", "f", 100, 69950, 0)), case(rw, do("preadv2", "f", 100, 70000, 0)),
        case(rw, do("preadv2", "f", 100, 5, 1 << 20)),
        case(rw, do("write", "f", 100), do("read", "f", 100), do("seek", "f", 0, 1), do("seek", "f", -3, 2), do("read", "f", 9)),
        case(rw, do("ftruncate", "f", 10), do("write", "g", b"after"), do("pread", "f", 100, 0)),
        case(rw, do("pwrite", "f", b"hole", 200000), do("ftruncate", "g", 100000), do("pread", "f", 1 << 20, 60000)),
        case(rw, do("copy_range", "f", 0, "g", 100000, 5000), do("pread", "g", 5000, 100000)),
        case(rw, do("copy_range", "f", 0, "g", 10, 5000), do("pread", "g", 5000, 0)),
        case((do("dir", "x"), do("open", "f", "x", 0)), do("read", "f", 10), do("pread", "f", 1, 0), do("write", "f", b"1")),
    ]  # fmt: skip
    return unique(made)


def seek_cases() -> list[Case]:
    """Return seeks of every origin; holes are told only where the file system knows them."""
    made = []
    setup = (do("put", "x", 5000), do("open", "f", "x", os.O_RDWR))
    spots = (-(1 << 63), -5001, -1, 0, 1, 4999, 5000, 5001, FILE_MAX, FILE_MAX + 1, 1 << 62)
    for whence, offset in itertools.product((0, 1, 2, os.SEEK_DATA, os.SEEK_HOLE, 5, 77), spots):
        made.append(case(setup, do("seek", "f", offset, whence), do("seek", "f", 0, 1)))
    sparse = (
        do("put", "x", 8192),
        do("truncate", "x", 1 << 21),
        do("open", "f", "x", os.O_RDWR),
        do("pwrite", "f", 8192, 1 << 20),
    )
    for whence, offset in itertools.product(
        (os.SEEK_DATA, os.SEEK_HOLE), (0, 8192, 1 << 19, 1 << 20, (1 << 21) - 1)
    ):
        made.append(case(sparse, do("seek", "f", offset, whence)))
    return unique(made)


def allocate_cases() -> list[Case]:
    """Return fallocate in every mode, and glibc's posix_fallocate, which must always work."""
    made = []
    keep, punch = syscalls.FALLOC_KEEP_SIZE, syscalls.FALLOC_PUNCH_HOLE
    modes = (0, keep, punch | keep, punch, syscalls.FALLOC_ZERO_RANGE, syscalls.FALLOC_COLLAPSE_RANGE,
             syscalls.FALLOC_INSERT_RANGE, 64, 128)  # fmt: skip
    ranges = (
        (0, 0),
        (0, 1),
        (-1, 10),
        (10, -1),
        (0, 20000),
        (4096, 4096),
        (100000, 5000),
        (FILE_MAX, 1),
        (FILE_MAX - 1, 1),
    )
    for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY):
        setup = (do("put", "x", 10000), do("open", "f", "x", flags))
        for where in ranges:
            made += [case(setup, do("fallocate", "f", mode, *where)) for mode in modes]
            if where[0] < FILE_MAX - 1:
                made.append(case(setup, do("posix_fallocate", "f", *where), do("fstat", "f")))
    return unique(made)


def map_cases() -> list[Case]:
    """Return mapped writes and reads beside plain ones."""
    made = []
    shared, private = mmap.MAP_SHARED, mmap.MAP_PRIVATE
    both = mmap.PROT_READ | mmap.PROT_WRITE
    for size, flags in itertools.product((1, 4095, 4096, 10000, 70000), (shared, private)):
        setup = (
            do("put", "x", size),
            do("open", "f", "x", os.O_RDWR),
            do("map", "f", size, flags, both),
        )
        made += [
            case(setup, do("map_write", "f", 0, b"M"), do("map_sync", "f"), do("pread", "f", size, 0)),
            case(setup, do("pwrite", "f", b"W", size - 1), do("map_read", "f", 0, size)),
            case(setup, do("map_write", "f", size - 1, b"M"), do("pread", "f", size, 0), do("fsync", "f"), do("close", "f")),
            case(setup, do("unlink", "x"), do("map_write", "f", 0, b"M"), do("map_sync", "f"), do("pread", "f", size, 0)),
            case(setup, do("map_write", "f", 0, b"M"), do("rename", "x", "y"), do("map_sync", "f")),
        ]  # fmt: skip
    for access, flags, protection in itertools.product(
        (0, 1, 2), (shared, private), (mmap.PROT_READ, both)
    ):
        made.append(
            case(
                (do("put", "x", 100), do("open", "f", "x", access)),
                do("map", "f", 100, flags, protection),
            )
        )
    return unique(made)
