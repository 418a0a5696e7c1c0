"""Files read past the daemon: the kernel's rules, each of which broken is an EIO or wrong bytes.

The rules stand in DESIGN.md, "Passthrough", and in fs/fuse/iomode.c. Everything here must hold
with passthrough off, too.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

import pytest

from dedupfs.fuse import passthrough
from mount.programs import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = pytest.mark.parametrize("mount", ["passthrough", "writeback"], indirect=True)

MIB = 1 << 20
_CACHESTAT = 451  # include/uapi/asm-generic/unistd.h
CHANCE = random.Random(4)


@pytest.fixture
def folder(mount: Mounted) -> Path:
    path = mount.path / f"t{time.monotonic_ns()}"
    path.mkdir()
    return path


def new_file(path: Path, size: int = 2 * MIB + 123) -> bytes:
    """Write bytes nobody else has: so the file gets a segment of its own."""
    data = CHANCE.randbytes(size)
    path.write_bytes(data)
    return data


class Map:
    """A file mapped for reading, as Arrow and torch do it."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.map = mmap.mmap(self.file.fileno(), 0, prot=mmap.PROT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.map.close()
        self.file.close()


def is_on(mount: Mounted) -> bool:
    return mount.status()["io_mode"] == "passthrough" and passthrough.why_not() is None


def reads(mount: Mounted) -> int:
    return int(mount.status()["requests"].get("read", 0))  # type: ignore[attr-defined]


def test_a_closed_file_is_read_past_the_daemon(mount: Mounted, folder: Path) -> None:
    data = new_file(folder / "f")
    before = reads(mount)
    assert (folder / "f").read_bytes() == data
    with Map(folder / "f") as mapped:
        assert mapped.map[:] == data
    if is_on(mount):
        assert reads(mount) == before, "the daemon was asked for bytes"


def test_equal_files_of_four_ranks_fill_the_page_cache_once(mount: Mounted, folder: Path) -> None:
    data = new_file(folder / "0", 64 * MIB)
    for rank in range(1, 4):
        (folder / str(rank)).write_bytes(data)
    assert [os.getxattr(folder / str(r), "user.dedupfs.extents") for r in range(4)] == [b"1"] * 4
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as knob:
        knob.write("3")
    for rank in range(4):
        assert (folder / str(rank)).read_bytes() == data
    if is_on(mount):
        files = [*folder.iterdir(), *(mount.store / "segments").iterdir()]
        held = sum(map(cached_bytes, files))
        assert 64 * MIB <= held < 2 * 64 * MIB, "each rank has a copy of its own in memory"


def cached_bytes(path: Path) -> int:
    """Return what the page cache holds of a file (cachestat(2), as old as passthrough at least)."""
    found = (ctypes.c_uint64 * 5)()
    whole = (ctypes.c_uint64 * 2)()
    fd = os.open(path, os.O_RDONLY)
    try:
        assert ctypes.CDLL(None).syscall(_CACHESTAT, fd, whole, found, 0) == 0
    finally:
        os.close(fd)
    return int(found[0]) * mmap.PAGESIZE


@pytest.mark.parametrize("how", ["r+b", "ab", "truncate", "wb", "O_TRUNC"])
def test_a_writer_gets_its_own_copy_and_readers_keep_theirs(
    mount: Mounted, folder: Path, how: str
) -> None:
    data = new_file(folder / "f")
    with Map(folder / "f") as reader:
        want = change(folder / "f", how, data)
        assert (folder / "f").read_bytes() == want, "who opens now sees the change"
        if is_on(mount):
            assert reader.map[: len(data)] == data, "who had it keeps what it opened"
    assert (folder / "f").read_bytes() == want
    mount.remount()
    assert (folder / "f").read_bytes() == want


def change(path: Path, how: str, data: bytes) -> bytes:
    if how == "truncate":
        os.truncate(path, len(data) + 5000)
        return data + bytes(5000)
    if how == "O_TRUNC":
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        path.write_bytes(data[::-1])
        return data[::-1]
    with path.open(how) as file:
        file.write(b"new")
    return {"r+b": b"new" + data[3:], "ab": data + b"new", "wb": b"new"}[how]


def test_all_hard_links_follow_a_copy(folder: Path) -> None:
    """Else a second name would show the old content for ever: the kernel remembers it."""
    data = new_file(folder / "a")
    os.link(folder / "a", folder / "b")
    (folder / "sub").mkdir()
    os.link(folder / "a", folder / "sub" / "c")
    names = [folder / "a", folder / "b", folder / "sub" / "c"]
    os.setxattr(folder / "a", "user.kept", b"yes")
    with Map(folder / "b"):
        assert all(path.read_bytes() == data for path in names)
        with (folder / "a").open("r+b") as file:
            file.write(b"new")
        want = b"new" + data[3:]
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(p.read_bytes() != want for p in names):
            time.sleep(0.05)
        assert all(path.read_bytes() == want for path in names)
    assert {os.stat(path).st_nlink for path in names} == {3}
    assert len({os.stat(path).st_ino for path in names}) == 1
    assert os.getxattr(folder / "b", "user.kept") == b"yes"


def test_an_open_writer_keeps_later_readers_on_the_ordinary_path(folder: Path) -> None:
    data = new_file(folder / "f")
    with (folder / "f").open("r+b", buffering=0) as writer, (folder / "f").open("rb") as reader:
        writer.write(b"one")
        assert reader.read(3) == b"one"
        with Map(folder / "f") as mapped:
            writer.seek(0)
            writer.write(b"two")
            assert mapped.map[:3] == b"two"
    assert (folder / "f").read_bytes() == b"two" + data[3:]


def test_unlink_and_rename_over_leave_maps_alone(folder: Path) -> None:
    data, other = new_file(folder / "f"), new_file(folder / "g")
    with Map(folder / "f") as first, Map(folder / "g") as second:
        os.rename(folder / "f", folder / "g")
        os.unlink(folder / "g")
        assert os.listdir(folder) == [], "nothing is left behind"
        folder.rmdir()
        time.sleep(6)  # more than a checkpoint: what is freed is punched by then
        assert first.map[:] == data
        assert second.map[:] == other


def test_many_inodes_at_once(mount: Mounted, folder: Path) -> None:
    files = {folder / str(n): new_file(folder / str(n), 300_000 + n) for n in range(100)}
    maps = [Map(path) for path in files]
    try:
        for mapped, (path, data) in zip(maps, files.items(), strict=True):
            assert mapped.map[:] == data
            path.chmod(0o600)
    finally:
        for mapped in maps:
            mapped.__exit__()
    mount.remount()
    assert all(path.read_bytes() == data for path, data in files.items())


def test_holes_read_as_zeros_whatever_others_wrote_there(mount: Mounted, folder: Path) -> None:
    head, tail = CHANCE.randbytes(600_000), CHANCE.randbytes(600_000)
    sparse = head + bytes(400_000) + tail
    (folder / "a").write_bytes(sparse)
    full = head + CHANCE.randbytes(400_000) + tail
    (folder / "b").write_bytes(full)
    for _ in range(2):
        with Map(folder / "a") as first, Map(folder / "b") as second:
            assert first.map[:] == sparse
            assert second.map[:] == full
        mount.remount()


OPENS = {"r": "rb", "r+": "r+b", "a": "ab"}


@pytest.mark.parametrize("order", list(itertools.permutations(["r", "r+", "a", "r"], 4))[::3])
def test_opens_of_all_kinds_mix(folder: Path, order: tuple[str, ...]) -> None:
    """Whatever is open, every open works, and who opens last sees all that was written."""
    want = bytearray(new_file(folder / "f", MIB + 7))
    path, held, maps = folder / "f", [], []
    for number, kind in enumerate(order):
        file = path.open(OPENS[kind], buffering=0)
        held.append(file)
        if kind == "r":
            maps.append(mmap.mmap(file.fileno(), len(want), prot=mmap.PROT_READ))
            assert maps[-1][:] == want
        elif kind == "a":
            want += b"%d" % number
            file.write(b"%d" % number)
        else:
            want[:1] = b"%d" % number
            file.write(b"%d" % number)
        assert path.read_bytes() == want
    for file in (*maps, *held[::2], *held[1::2]):
        file.close()
        assert path.read_bytes() == want


@pytest.mark.parametrize("size", [0, 5000, 3 * MIB])
def test_truncating_by_handle_leaves_readers_what_they_opened(
    mount: Mounted, folder: Path, size: int
) -> None:
    data = new_file(folder / "f")
    with (folder / "f").open("rb") as reader, (folder / "f").open("r+b") as writer:
        os.ftruncate(writer.fileno(), size)
        want = data[:size] + bytes(max(0, size - len(data)))
        assert (folder / "f").read_bytes() == want
        assert os.fstat(writer.fileno()).st_size == size
        assert reader.read() == (data if is_on(mount) else want)
    assert os.stat(folder / "f").st_size == size


def test_a_readers_handle_takes_all_that_needs_no_writing(folder: Path) -> None:
    data = new_file(folder / "f")
    with Map(folder / "f") as reader, (folder / "copy").open("w+b") as copy:
        fd = reader.file.fileno()
        os.fchmod(fd, 0o640)
        os.utime(fd, (1, 2))
        os.setxattr(fd, "user.a", b"b")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fsync(fd)
        found = os.fstat(fd)
        assert (found.st_mode & 0o777, found.st_mtime, found.st_size) == (0o640, 2, len(data))
        assert os.sendfile(copy.fileno(), fd, 0, len(data)) == len(data)
        copy.seek(0)
        assert copy.read() == data
        assert reader.map.find(data[-100:]) == len(data) - 100
        reader.map.madvise(mmap.MADV_DONTNEED)
        assert reader.map[:] == data
    assert os.stat(folder / "f").st_mtime == 2


def test_a_private_writable_map_changes_no_file(folder: Path) -> None:
    """As torch.load maps."""
    data = new_file(folder / "f")
    with (folder / "f").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        mapped[:4] = b"mine"
        assert (folder / "f").read_bytes() == data
        os.unlink(folder / "f")
        assert mapped[:] == b"mine" + data[4:]
        mapped.close()


def test_a_folder_removed_while_mapped_gives_its_space_back_afterwards(
    mount: Mounted, folder: Path
) -> None:
    """As eviction removes it: its readers go on, and others fill the disk meanwhile."""
    (folder / "unit").mkdir()
    files = {folder / "unit" / str(n): new_file(folder / "unit" / str(n)) for n in range(8)}
    maps = [Map(path) for path in files]
    shutil.rmtree(folder / "unit")
    os.sync()
    other = new_file(folder / "other", 8 * MIB)
    try:
        assert all(m.map[:] == data for m, data in zip(maps, files.values(), strict=True))
        taken = mount.status_number("allocated_bytes")
    finally:
        for mapped in maps:
            mapped.__exit__()
    assert (folder / "other").read_bytes() == other
    size = sum(map(len, files.values()))
    assert wait_for(lambda: mount.status_number("allocated_bytes") <= taken - size + MIB, 30)


def test_opening_and_closing_keeps_no_descriptor(mount: Mounted, folder: Path) -> None:
    for number in range(20):
        new_file(folder / str(number), 300_000)
    counts = []
    for _ in range(2):
        for _ in range(10):
            for number in range(20):
                with (folder / str(number)).open("rb") as file:
                    file.read(10)
        counts.append(len(os.listdir(f"/proc/{mount.pid}/fd")))
    assert counts[1] <= counts[0] + 3


def test_a_map_outlives_its_descriptor_and_the_punching(mount: Mounted, folder: Path) -> None:
    """Regression: the kernel releases a file read past us at close, mapped or not."""
    data = new_file(folder / "f", 8 * MIB)
    taken = mount.status_number("allocated_bytes")
    (folder / "half").write_bytes(data[: 4 * MIB])  # keeps the segment, so that it is punched
    code = (
        "import ctypes, os, sys; c = ctypes.CDLL(None); c.mmap.restype = ctypes.c_void_p\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY); size = os.fstat(fd).st_size\n"
        "at = c.mmap(None, ctypes.c_size_t(size), 1, 1, fd, ctypes.c_long(0)); os.close(fd)\n"
        "print('mapped', flush=True); sys.stdin.readline()\n"
        "sys.stdout.buffer.write(ctypes.string_at(at, size))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder / "f"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"mapped\n"
        with (folder / "f").open("r+b") as file:
            file.seek(4 * MIB)
            new = CHANCE.randbytes(4 * MIB)
            file.write(new)
            now = data[: 4 * MIB] + new
        time.sleep(8)  # a checkpoint, and what is freed is punched
        out, _ = reader.communicate(b"\n", timeout=60)
    assert out == (data if is_on(mount) else now), "what was mapped, no zeros"
    assert (folder / "f").read_bytes() == now
    (folder / "half").unlink()
    assert wait_for(lambda: mount.status_number("allocated_bytes") < taken + MIB, 30)
