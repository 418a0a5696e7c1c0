"""The on-disk format: every index table's key and value layout, and the store's files.

Integers are big-endian, so keys sort by value. Ranges are half-open: `start..stop`.
"""

from __future__ import annotations

import dataclasses
import operator
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from dedupfs.core.errors import Corrupt
from dedupfs.core.types import Cookie, Ino, SegmentId

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT_VERSION: Final = 1

# table       | key                         | value
# ------------|-----------------------------|----------------------------------------------------
# meta        | ascii name                  | "format": u32; "counters": COUNTERS; "epoch": u64;
#             |                             | "clean": u32, 1 when closed in order;
#             |                             | "scrub": SCRUB: the pass under way, store.scrub.Progress
#             |                             | "units": depth u32, then the policy's name: what units
#             |                             | and queue were made for; "main": u64, units in MAIN
# inodes      | ino u64                     | INODE, then a symlink's target
# dirents     | parent ino u64, name        | DIRENT: ino u64, cookie u64
# cookies     | parent ino u64, cookie u64  | ino u64, then the name
# parents     | ino u64, cookie u64         | parent ino u64: the dirents that name an inode
# xattrs      | ino u64, name               | the value
# orphans     | ino u64                     | empty: unlinked, still open
# extents     | ino u64, file offset u64    | EXTENT: segment u64, segment offset u64, length u64
# segments    | segment u64                 | SEGMENT: state u8, size u64, allocated u64
# shares      | segment u64, start u64      | SHARE: length u64, count u32
# chunks      | fingerprint, 16 bytes       | CHUNK: segment u64, offset u64, length u32
# chunk_at    | segment u64, offset u64     | length u32, then the fingerprint
# frees       | segment u64, start u64      | length u64: unreferenced, not yet punched
# damaged     | segment u64, start u64      | length u64: known not to be what was written
# units       | ino u64                     | UNIT: what eviction removes whole; fields of Unit below
# queue       | queue u8, order u64, ino u64| empty: units in the order in which they are looked at
# history     | sequence u64                | EVICTED: time i64 ns, bytes u64, files u64, path's
#             |                             | length u16; the path, then why
# evicted     | XXH3-128 of a path, 16      | sequence u64: its last row in history
TABLES: Final = (
    "meta", "inodes", "dirents", "cookies", "parents", "xattrs", "orphans",
    "extents", "segments", "shares", "chunks", "chunk_at", "frees", "damaged",
    "units", "queue", "history", "evicted",
)  # fmt: skip

U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")
PAIR: Final = struct.Struct(">QQ")
INODE: Final = struct.Struct(">IIIIQQQqqqQ")
EXTENT: Final = struct.Struct(">QQQ")
SEGMENT: Final = struct.Struct(">BQQ")
SHARE: Final = struct.Struct(">QI")
CHUNK: Final = struct.Struct(">QQI")
SCRUB: Final = struct.Struct(">7Q")
UNIT: Final = struct.Struct(">BQIQQBIQ16sQ")
QUEUED: Final = struct.Struct(">BQQ")
EVICTED: Final = struct.Struct(">qQQH")
FINGERPRINT_BYTES: Final = 16

# The journal, `journal-EPOCH` beside LMDB's files, holds what LMDB does not have yet.
# at             | what
# ---------------|--------------------------------------------------------------------------------
# 0              | JOURNAL_HEAD: magic 8, epoch u64, boot id 16, mount id u64; then u64 checksum
# 512            | LMDB's transaction that began it u64; then u64 checksum. Zeros in old journals,
#                | whose transaction was durable before they were used
# 1024, 2048     | JOURNAL_MARK: sequence u64, position u64; then u64 checksum: the valid one of
#                | the higher sequence says up to where the journal and all data are durable
# 4096           | records: RECORD_HEAD: length u32, u64 checksum seeded with the position; changes
#                | change: CHANGE: table u8, key length u16, value length u32; the key, the value
JOURNAL_MAGIC: Final = b"dedupfsJ"
JOURNAL_HEAD: Final = struct.Struct(">8sQ16sQ")
JOURNAL_MARK: Final = struct.Struct(">QQ")
JOURNAL_BASE_AT: Final = 512
JOURNAL_MARK_AT: Final = (1024, 2048)
JOURNAL_RECORDS_AT: Final = 4096
RECORD_HEAD: Final = struct.Struct(">IQ")
CHANGE: Final = struct.Struct(">BHI")
CHANGE_DELETED: Final = 0xFFFFFFFF  # in place of the value's length

assert PAIR.size == 16, "two u64"
assert INODE.size == 72, "the fields of Inode below"
assert EXTENT.size == 24, "the table above says 24"
assert SEGMENT.size == 17, "the table above says 17"
assert SHARE.size == 12, "the table above says 12"
assert CHUNK.size == 20, "the table above says 20"
assert SCRUB.size == 56, "the fields of store.scrub.Progress"
assert UNIT.size == 66, "the fields of Unit below"
assert QUEUED.size == 17, "the table above says 17"
assert EVICTED.size == 26, "the table above says 26"
assert JOURNAL_HEAD.size == 40, "the table above says 40"
assert JOURNAL_MARK.size == 16, "the table above says 16"
assert RECORD_HEAD.size == 12, "the table above says 12"
assert CHANGE.size == 7, "the table above says 7"

STORE_FILES: Final[Mapping[str, str]] = {
    "marker": "FORMAT",  # "dedupfs store, format N\n"
    "lock": "lock",  # flock; its text names the holder
    "index": "index",  # LMDB environment
    "segments": "segments",  # a file each, named by its id in 16 hex digits
    "control": "control.sock",
    "history": "history.json",  # service.history: space over time
    "backup": "index.backup",  # store.backup, and the one before
    "old_backup": "index.backup.old",
    "new_backup": "index.backup.new",
    "users": "users",  # flock, shared by all who use one mount in common; names its daemon
    "import": "import.json",  # transfer.record: what `dedupfs import` has done
    "new_import": "import.json.new",
}
MARKER_PREFIX: Final = "dedupfs store, format "


@dataclass(slots=True)
class Inode:
    """What `stat` shows of a file, plus a symlink's target. Times are ns since the epoch."""

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    size: int
    mapped_bytes: int  # bytes that have an extent; the rest of `size` is holes
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    parent: int  # a directory's parent ino; 0 for everything else
    target: bytes = b""

    def pack(self) -> bytes:
        """Return the index value of this inode."""
        return (
            INODE.pack(
                self.mode, self.uid, self.gid, self.nlink, self.rdev, self.size,
                self.mapped_bytes, self.atime_ns, self.mtime_ns, self.ctime_ns, self.parent,
            )
            + self.target
        )  # fmt: skip

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the inode in `raw`; raise Corrupt when it is too short."""
        if len(raw) < INODE.size:
            raise Corrupt(f"inode: {len(raw)} bytes, want at least {INODE.size}")
        inode = cls(*INODE.unpack_from(raw))
        inode.target = raw[INODE.size :]
        return inode


@dataclass(slots=True)
class Counters:
    """Totals kept as they change, never counted by a scan; all but the `next_` ones are gauges."""

    next_ino: int = 2
    next_segment: int = 1
    next_cookie: int = 3  # 1 and 2 are "." and ".."
    files: int = 0
    directories: int = 0
    logical_bytes: int = 0  # mapped by files, each file counted; holes are not
    live_bytes: int = 0  # of segments, referenced by at least one file
    allocated_bytes: int = 0  # of segments, on disk
    pending_free_bytes: int = 0  # unreferenced, not yet punched
    followed_bytes: int = 0
    matched_bytes: int = 0
    unique_bytes: int = 0
    zero_bytes: int = 0
    collisions: int = 0
    healed_chunks: int = 0
    damaged_bytes: int = 0

    def pack(self) -> bytes:
        """Return the index value of these counters."""
        return COUNTERS.pack(*_COUNTS(self))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the counters in `raw`; raise Corrupt when the length is another."""
        if len(raw) != COUNTERS.size:
            raise Corrupt(f"counters: {len(raw)} bytes, want {COUNTERS.size}")
        return cls(*COUNTERS.unpack(raw))


COUNTER_NAMES: Final = tuple(field.name for field in dataclasses.fields(Counters))
_COUNTS: Final = operator.attrgetter(*COUNTER_NAMES)  # packed in every transaction
COUNTERS: Final = struct.Struct(f">{len(COUNTER_NAMES)}q")


@dataclass(frozen=True, slots=True)
class Unit:
    """What eviction knows of a unit. Times are ns since the epoch; owner 0: none, or unknown."""

    queue: int  # of the policy; 0: the order of last use is the policy's own
    order: int
    hits: int
    last_use_ns: int
    made_ns: int
    flags: int = 0
    owner_pid: int = 0
    owner_start: int = 0  # field 22 of /proc/PID/stat
    owner_boot: bytes = bytes(16)
    orphaned_ns: int = 0  # when the owner was found dead; 0: not yet

    def pack(self) -> bytes:
        """Return the index value of this unit."""
        return UNIT.pack(
            self.queue, self.order, self.hits, self.last_use_ns, self.made_ns, self.flags,
            self.owner_pid, self.owner_start, self.owner_boot, self.orphaned_ns,
        )  # fmt: skip

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Return the unit in `raw`; raise Corrupt when the length is another."""
        if len(raw) != UNIT.size:
            raise Corrupt(f"unit: {len(raw)} bytes, want {UNIT.size}")
        return cls(*UNIT.unpack(raw))


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes of a file from `offset`, kept in `segment` from `segment_offset`."""

    offset: int
    segment: SegmentId
    segment_offset: int
    length: int

    @property
    def stop(self) -> int:
        """The file offset behind the last byte."""
        return self.offset + self.length

    @property
    def shift(self) -> int:
        """Segment offset minus file offset: equal shifts of neighbours make one extent."""
        return self.segment_offset - self.offset


def ino_key(ino: Ino) -> bytes:
    """Return the key of `inodes` and `orphans`."""
    return U64.pack(ino)


def name_key(ino: Ino, name: bytes) -> bytes:
    """Return the key of `dirents` and `xattrs`."""
    return U64.pack(ino) + name


def pair_key(first: int, second: int) -> bytes:
    """Return the key of `cookies`, `extents`, `shares`, `chunk_at` and `frees`."""
    return PAIR.pack(first, second)


def unpack_pair(raw: bytes) -> tuple[int, int]:
    """Return the two integers of a pair key."""
    if len(raw) != PAIR.size:
        raise Corrupt(f"pair key: {len(raw)} bytes, want {PAIR.size}")
    first, second = PAIR.unpack(raw)
    return first, second


def unpack_dirent(raw: bytes) -> tuple[Ino, Cookie]:
    """Return a dirent's inode and cookie."""
    ino, cookie = unpack_pair(raw)
    return Ino(ino), Cookie(cookie)


def unpack_cookie_entry(raw: bytes) -> tuple[Ino, bytes]:
    """Return the inode and name of a `cookies` value."""
    if len(raw) <= U64.size:
        raise Corrupt(f"cookie entry: {len(raw)} bytes, want more than {U64.size}")
    return Ino(U64.unpack_from(raw)[0]), raw[U64.size :]


def unpack_extent(key: bytes, raw: bytes) -> Extent:
    """Return the extent of an `extents` row."""
    if len(raw) != EXTENT.size:
        raise Corrupt(f"extent: {len(raw)} bytes, want {EXTENT.size}")
    segment, segment_offset, length = EXTENT.unpack(raw)
    return Extent(unpack_pair(key)[1], segment, segment_offset, length)
