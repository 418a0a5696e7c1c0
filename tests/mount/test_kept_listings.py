"""Listings that the kernel keeps: one that is out of date hides a file, or shows one that is gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from dedupfs.fuse import replies
from mount.folders import SYS_GETDENTS64, entries_of, fresh_folder, getdents, opened
from mount.mounted import command_environment, is_mounted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mount.mounted import Mounted

pytestmark = [
    pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True),
    pytest.mark.skipif(SYS_GETDENTS64 is None, reason="no number for getdents64 here"),
]
BEHIND: Final = Path(__file__).with_name("behind.py")


@pytest.fixture
def folder(mount: Mounted, request: pytest.FixtureRequest) -> Iterator[Path]:
    with fresh_folder(mount, request.node.name) as place:
        yield place


def parts_asked(mount: Mounted) -> int:
    requests = mount.status()["requests"]
    assert isinstance(requests, dict)
    return int(requests.get("readdir", 0))


def listed(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def filled(folder: Path, count: int = 300) -> set[str]:
    """Make files, and let the kernel have the whole listing."""
    names = {f"file-{number:05}" for number in range(count)}
    for name in names:
        (folder / name).touch()
    assert listed(folder) == names
    assert listed(folder) == names
    return names


@pytest.mark.skipif(replies.why_missing() is not None, reason="needs the C extension")
def test_a_second_listing_asks_for_nothing(mount: Mounted, folder: Path) -> None:
    names = filled(folder)
    before = parts_asked(mount)
    assert listed(folder) == names
    assert parts_asked(mount) == before
    assert mount.status()["listings_cached"] is True
    (folder / "new").touch()
    assert listed(folder) == {*names, "new"}
    assert parts_asked(mount) > before, "or this test sees nothing"


def test_ten_thousand_entries_twice_are_equal(folder: Path) -> None:
    for number in range(10_000):
        os.mknod(folder / f"{number}", 0o600)
    found = []
    for _ in range(3):
        with opened(folder) as fd:
            found.append(entries_of(fd))
    assert len(found[0]) == 10_002
    assert found[0] == found[1] == found[2]


def test_every_change_shows_at_once(folder: Path) -> None:
    names = filled(folder)
    steps = [
        ((folder / "made").touch, {"made"}, set()),
        ((folder / "made").unlink, set(), {"made"}),
        (lambda: (folder / "file-00007").rename(folder / "moved"), {"moved"}, {"file-00007"}),
        ((folder / "dir").mkdir, {"dir"}, set()),
        ((folder / "dir").rmdir, set(), {"dir"}),
        (lambda: (folder / "sym").symlink_to("x"), {"sym"}, set()),
        (lambda: os.link(folder / "moved", folder / "hard"), {"hard"}, set()),
        (lambda: os.mkfifo(folder / "fifo"), {"fifo"}, set()),
        (lambda: (folder / "hard").replace(folder / "file-00003"), set(), {"hard"}),
        ((folder / "moved").unlink, set(), {"moved"}),
    ]
    for number, (change, more, less) in enumerate(steps):
        change()
        names = (names | more) - less
        assert listed(folder) == names, f"step {number}"
        assert listed(folder) == names, f"step {number}, kept"


def test_a_move_between_folders_shows_in_both(folder: Path) -> None:
    for side in ("a", "b"):
        (folder / side).mkdir()
        filled(folder / side, 50)
    (folder / "a" / "only").touch()
    assert "only" in listed(folder / "a")
    assert "only" not in listed(folder / "b")
    (folder / "a" / "only").rename(folder / "b" / "only")
    assert "only" not in listed(folder / "a")
    assert "only" in listed(folder / "b")


def test_a_moved_folder_lists_its_new_parent(folder: Path) -> None:
    for name in ("old", "new"):
        (folder / name).mkdir()
    (folder / "old" / "moved").mkdir()

    def parent() -> int:
        with opened(folder / "old" / "moved" if old else folder / "new" / "moved") as fd:
            return next(ino for name, ino, *_ in entries_of(fd) if name == "..")

    old = True
    assert parent() == parent() == os.stat(folder / "old").st_ino
    (folder / "old" / "moved").rename(folder / "new" / "moved")
    old = False
    assert parent() == os.stat(folder / "new").st_ino


def test_rewinding_an_open_listing_shows_what_changed(folder: Path) -> None:
    names = filled(folder)
    with opened(folder) as fd:
        assert {entry[0] for entry in entries_of(fd)} == {*names, ".", ".."}
        (folder / "new").touch()
        (folder / "file-00000").unlink()
        os.lseek(fd, 0, os.SEEK_SET)
        now = {*names, "new", ".", ".."} - {"file-00000"}
        assert {entry[0] for entry in entries_of(fd)} == now
        os.lseek(fd, 0, os.SEEK_SET)
        assert {entry[0] for entry in entries_of(fd)} == now


def test_two_listings_at_once_never_leave_a_wrong_one(folder: Path) -> None:
    """The kernel puts one kept listing together from all handles: each order of steps is tried."""
    names = filled(folder, 400)
    for turn in range(12):
        first, second = os.open(folder, os.O_RDONLY), os.open(folder, os.O_RDONLY)
        try:
            for _ in range(turn % 4):
                getdents(first, 2000)
            (folder / f"new-{turn}").touch()
            (folder / f"file-{turn:05}").unlink()
            names = {*names, f"new-{turn}"} - {f"file-{turn:05}"}
            seen = {entry[0] for _ in range(turn // 3) for entry in getdents(second, 3000)}
            entries_of(first)
            seen |= {entry[0] for entry in entries_of(second)}
            if turn >= 3:  # it began after the change
                assert seen == {*names, ".", ".."}
        finally:
            os.close(second)
            os.close(first)
        assert listed(folder) == names
        assert listed(folder) == names


def test_listers_and_changers_at_once_agree_at_the_end(folder: Path) -> None:
    names = filled(folder)
    stop = threading.Event()
    wrong: list[set[str]] = []

    def lister() -> None:
        while not stop.is_set():
            missing = names - listed(folder)
            if missing:
                wrong.append(missing)

    listers = [threading.Thread(target=lister) for _ in range(3)]
    for thread in listers:
        thread.start()
    for number in range(150):
        (folder / "come").touch()
        assert "come" in listed(folder), f"round {number}"
        (folder / "come").rename(folder / "gone")
        assert {"come", "gone"} & listed(folder) == {"gone"}
        (folder / "gone").unlink()
        assert "gone" not in listed(folder)
    stop.set()
    for thread in listers:
        thread.join()
    assert not wrong
    assert listed(folder) == names


@contextlib.contextmanager
def served(base: Path, io: str) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    path = base / "mnt"
    path.mkdir()
    daemon = subprocess.Popen(
        [sys.executable, BEHIND, base / "store", path, io],
        env=command_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    try:
        assert daemon.stdout.readline() == "ready\n"
        yield path, daemon
        daemon.stdin.close()
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()
        if is_mounted(path):
            subprocess.run(["umount", "-l", path], check=False)


def remove(daemon: subprocess.Popen[str], folder_ino: int, name: str) -> None:
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    daemon.stdin.write(f"{folder_ino} {name}\n")
    daemon.stdin.flush()
    assert daemon.stdout.readline() == "done\n"


def test_what_is_evicted_leaves_the_listing(mount: Mounted, tmp_path: Path) -> None:
    with served(tmp_path, mount.io) as (path, daemon):
        ino = os.stat(path).st_ino
        names = filled(path)
        with opened(path) as fd:
            getdents(fd, 2000)  # a part is told before, the rest behind it
            remove(daemon, ino, "file-00000")
            remove(daemon, ino, "file-00299")
            names -= {"file-00000", "file-00299"}
            assert "file-00299" not in {entry[0] for entry in entries_of(fd)}
        assert listed(path) == names
        assert listed(path) == names
        # Names that the kernel has in a listing only.
        Path("/proc/sys/vm/drop_caches").write_text("2")
        remove(daemon, ino, "file-00100")
        assert listed(path) == names - {"file-00100"}
        assert not (path / "file-00100").exists()
