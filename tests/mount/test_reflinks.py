"""Files of several extents on a store that reflinks: read past the daemon, at no space.

What is lost if one fails: a rank whose file differs in one page reads it through the daemon and
keeps it twice in memory; or it reads what another file holds; or space that was saved is taken.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from crash.disk import MAKE, Disk
from dedupfs.fuse import passthrough
from mount.conftest import mounted
from mount.programs import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems"),
    pytest.mark.skipif(passthrough.why_not() is not None, reason="no passthrough here"),
]

MIB = 1 << 20
NOISE = random.Random(7)


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def on(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mounted]:
    """A mount whose store lies on a file system with reflinks."""
    if not shutil.which(MAKE[request.param][0]):
        pytest.skip(f"{MAKE[request.param][0]} is not installed")
    base = tmp_path_factory.mktemp(request.param)
    disk = Disk(request.param, base / "image", base / "disk")
    disk.make()
    try:
        disk.mount()
        with mounted(disk.path, "passthrough", "--checkpoint-interval=1") as one:
            yield one
        disk.unmount()
    finally:
        disk.clear()


def used_bytes(on: Mounted) -> int:
    """Return what is used of the store's file system, everything written back."""
    fd = os.open(on.store, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    os.sync()
    found = os.statvfs(on.store)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def reads(on: Mounted) -> int:
    return int(on.status()["requests"].get("read", 0))  # type: ignore[attr-defined]


def rank_file(data: bytes, rank: int) -> bytes:
    """Return what a rank writes: 16 hex digits of the first page differ, as in ms-swift."""
    return data[:1000] + b"%016x" % rank + data[1016:]


def write_ranks(folder: Path, data: bytes) -> dict[Path, bytes]:
    files = {folder / str(rank): rank_file(data, rank) for rank in range(4)}
    folder.mkdir()
    for path, content in files.items():
        path.write_bytes(content)
    return files


def test_files_that_differ_in_a_page_are_read_past_the_daemon_at_no_space(on: Mounted) -> None:
    files = write_ranks(on.path / "ranks", NOISE.randbytes(20 * MIB + 77))
    extents = [int(os.getxattr(path, "user.dedupfs.extents")) for path in files]
    assert min(extents[1:]) > 1, "else this shows nothing"
    used, status, asked = used_bytes(on), on.status(), reads(on)
    held = [path.open("rb") for path in files]
    try:
        assert all(path.read_bytes() == content for path, content in files.items())
        assert reads(on) == asked, "the daemon was asked for bytes"
        assert used_bytes(on) - used < MIB, "20 MiB each would be 80"
    finally:
        for file in held:
            file.close()
    after = on.status()
    for key in ("allocated_bytes", "live_bytes", "dedup_ratio"):
        assert after[key] == status[key], "what is read counts nowhere twice"
    assert "from reflinks" in str(status["io_reason"])


def test_a_writer_after_reading_still_finds_the_one_copy(on: Mounted) -> None:
    data = NOISE.randbytes(16 * MIB)
    files = write_ranks(on.path / "first", data)
    assert all(path.read_bytes() == content for path, content in files.items())
    before = on.status()
    (on.path / "first" / "late").write_bytes(rank_file(data, 99))
    after = on.status()
    assert int(str(after["allocated_bytes"])) - int(str(before["allocated_bytes"])) < MIB


@pytest.mark.parametrize("how", ["write", "truncate", "rename over", "unlink"])
def test_what_changes_is_seen_and_who_had_it_open_keeps_it(on: Mounted, how: str) -> None:
    folder = on.path / f"change {how}"
    data = NOISE.randbytes(8 * MIB)
    files = write_ranks(folder, data)
    path, old = folder / "2", files[folder / "2"]
    want: bytes | None = old
    with path.open("rb") as held:
        assert held.read(MIB) == old[:MIB]
        if how == "write":
            with path.open("r+b") as file:
                file.seek(3 * MIB)
                file.write(b"changed")
            want = old[: 3 * MIB] + b"changed" + old[3 * MIB + 7 :]
        elif how == "truncate":
            os.truncate(path, 5 * MIB + 1)
            want = old[: 5 * MIB + 1]
        elif how == "rename over":
            (folder / "new").write_bytes(old[::-1])
            (folder / "new").rename(path)
            want = old[::-1]
        else:
            path.unlink()
            want = None
        held.seek(0)
        assert held.read() == old
    if want is not None:
        assert path.read_bytes() == want
        on.remount()
        assert path.read_bytes() == want


def test_removed_files_give_their_space_back(on: Mounted) -> None:
    used = used_bytes(on)
    files = write_ranks(on.path / "gone", NOISE.randbytes(40 * MIB))
    assert all(path.read_bytes() == content for path, content in files.items())
    assert used_bytes(on) - used > 35 * MIB, "else this shows nothing"
    shutil.rmtree(on.path / "gone")
    assert wait_for(lambda: used_bytes(on) - used < 5 * MIB, timeout_s=60)


def test_a_file_that_is_written_while_it_is_put_together_reads_right(on: Mounted) -> None:
    """Several open one file for the first time at once, and others write it."""
    folder = on.path / "race"
    files = write_ranks(folder, NOISE.randbytes(4 * MIB))
    versions = [{content, b"written!" + content[8:]} for content in files.values()]
    stop = time.monotonic() + 1.5
    wrong: list[str] = []

    def read(rank: int) -> None:
        while time.monotonic() < stop:
            found = (folder / str(rank)).read_bytes()
            if found not in versions[rank]:
                wrong.append(f"{rank}: {found[:8]!r} {len(found)}")

    def write(rank: int) -> None:
        chance = random.Random(rank)
        while time.monotonic() < stop:
            with (folder / str(rank)).open("r+b", buffering=0) as file:
                file.write(chance.choice(sorted(versions[rank]))[:8])
            time.sleep(0.01)

    with ThreadPoolExecutor(12) as threads:
        done = [threads.submit(read, rank % 4) for rank in range(8)]
        done += [threads.submit(write, rank) for rank in range(4)]
        for one in done:
            one.result()
    assert wrong == []


def test_a_store_without_reflinks_says_so_and_reads_right(mount_passthrough: Mounted) -> None:
    folder = mount_passthrough.path / "plain ranks"
    files = write_ranks(folder, NOISE.randbytes(4 * MIB))
    assert all(path.read_bytes() == content for path, content in files.items())
    reason = str(mount_passthrough.status()["io_reason"])
    assert "from reflinks" in reason or "no reflinks on " in reason
