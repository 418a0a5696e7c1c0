"""Files read past the daemon: the kernel's rules, each of which broken is an EIO or wrong bytes.

The rules stand in DESIGN.md, "Passthrough", and in fs/fuse/iomode.c. Everything here must hold
with passthrough off, too.
"""

from __future__ import annotations

import mmap
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Self

import pytest

from dedupfs.fuse import passthrough

if TYPE_CHECKING:
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = pytest.mark.parametrize("mount", ["passthrough", "writeback"], indirect=True)

MIB = 1 << 20
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
    grown = min(cache_growth_mib(folder, data) for _ in range(3))  # other processes read, too
    if is_on(mount):
        assert grown < 2 * 64, "each rank has a copy of its own in memory"


def cache_growth_mib(folder: Path, data: bytes) -> int:
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as knob:
        knob.write("3")
    before = cached_mib()
    for rank in range(4):
        assert (folder / str(rank)).read_bytes() == data
    return cached_mib() - before


def cached_mib() -> int:
    with open("/proc/meminfo") as file:
        line = next(line for line in file if line.startswith("Cached:"))
    return int(line.split()[1]) // 1024


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


def test_readers_never_see_a_mix_while_writers_replace_copy_up_and_delete(  # noqa: C901
    folder: Path,
) -> None:
    """Each version of a file is one repeated byte: a reader that sees two has got torn content."""
    size = 3 * MIB
    stop = time.monotonic() + 6
    failures: list[str] = []

    def content(value: int) -> bytes:
        return random.Random(value).randbytes(4096) * (size // 4096)

    def write(number: int) -> None:
        chance, path = random.Random(number), folder / str(number % 2)
        while time.monotonic() < stop:
            temp = folder / f"temp{number}"
            temp.write_bytes(content(chance.randrange(1000)))
            if chance.random() < 0.3:
                with temp.open("rb") as held, temp.open("r+b") as again:
                    again.write(content(chance.randrange(1000)))
                    held.read(10)
            os.rename(temp, path)
            if chance.random() < 0.2:
                path.unlink(missing_ok=True)

    def read(number: int) -> None:
        while time.monotonic() < stop:
            try:
                with Map(folder / str(number % 2)) as mapped:
                    block = mapped.map[:4096]
                    if mapped.map[:] != block * (size // 4096):
                        failures.append("torn")
            except FileNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001 - reported below
                failures.append(repr(error))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    threads += [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
