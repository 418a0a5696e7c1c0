"""Folders that change while they are listed, are huge, deep, or move."""

from __future__ import annotations

import os
import stat
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

from mount.folders import SYS_GETDENTS64, entries_of, fresh_folder, getdents, opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = [
    pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True),
    pytest.mark.timeout(300),
]
_KINDS: Final = {stat.S_IFREG: 8, stat.S_IFDIR: 4, stat.S_IFLNK: 10, stat.S_IFIFO: 1}


@pytest.fixture
def folder(mount: Mounted, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a folder of the mount for one test."""
    with fresh_folder(mount, request.node.name) as place:
        yield place


@pytest.mark.skipif(SYS_GETDENTS64 is None, reason="no number for getdents64 here")
class TestListing:
    def test_entries_tell_inode_and_kind_as_stat_does(self, folder: Path) -> None:
        (folder / "file").write_bytes(b"")
        (folder / "dir").mkdir()
        (folder / "link").symlink_to("file")
        os.mkfifo(folder / "fifo")
        with opened(folder, os.O_RDONLY) as fd:
            for name, ino, kind, _ in entries_of(fd):
                status = os.lstat(folder / name)
                if name not in {".", ".."}:
                    assert (ino, kind) == (status.st_ino, _KINDS[stat.S_IFMT(status.st_mode)]), name

    def test_what_stays_is_listed_once_while_others_come_and_go(self, folder: Path) -> None:
        stay = {f"stay{number:04}" for number in range(400)}
        for number in range(400):
            (folder / f"stay{number:04}").touch()
            (folder / f"gone{number:04}").touch()
        with opened(folder, os.O_RDONLY) as fd:
            found: list[str] = []
            step = 0
            while some := getdents(fd):
                found += [entry[0] for entry in some]
                for number in range(step * 7, min(step * 7 + 7, 400)):
                    (folder / f"gone{number:04}").unlink()
                    (folder / f"come{number:04}").touch()
                    (folder / f"come{number:04}").rename(folder / f"moved{number:04}")
                step += 1
        counts = Counter(found)
        assert {name for name in counts if name.startswith("stay")} == stay
        assert max(counts.values()) == 1, counts.most_common(3)

    def test_a_place_in_a_listing_can_be_taken_up_again(self, folder: Path) -> None:
        for number in range(200):
            (folder / f"name{number:03}").touch()
        with opened(folder, os.O_RDONLY) as fd:
            whole = entries_of(fd)
            for place in (0, 1, 50, 199, 200):
                os.lseek(fd, whole[place][3], os.SEEK_SET)
                assert [entry[0] for entry in entries_of(fd)] == [
                    entry[0] for entry in whole[place + 1 :]
                ]
            for name in os.listdir(folder)[:100]:
                (folder / name).unlink()
            os.lseek(fd, whole[100][3], os.SEEK_SET)
            left = set(os.listdir(folder))
            assert [entry[0] for entry in entries_of(fd)] == [
                entry[0] for entry in whole[101:] if entry[0] in left
            ]

    def test_removing_while_listing_empties_a_folder(self, folder: Path) -> None:
        """What `rm -r` does: unlink each entry as it comes, and the folder is empty at the end."""
        for number in range(3000):
            (folder / f"f{number}").touch()
        with opened(folder, os.O_RDONLY) as fd:
            while some := getdents(fd, 1000):
                for name, *_ in some:
                    if name not in {".", ".."}:
                        (folder / name).unlink()
        assert os.listdir(folder) == []

    def test_an_open_listing_starts_anew_after_rewind(self, folder: Path) -> None:
        with opened(folder, os.O_RDONLY) as fd:
            assert {entry[0] for entry in entries_of(fd)} == {".", ".."}
            (folder / "new").touch()
            os.lseek(fd, 0, os.SEEK_SET)
            assert {entry[0] for entry in entries_of(fd)} == {".", "..", "new"}


def test_a_folder_holds_100_000_entries(folder: Path, mount: Mounted) -> None:
    if mount.io == "passthrough":
        pytest.skip("the folder does not know the io mode; once is enough")
    many = 100_000
    with opened(folder, os.O_RDONLY) as fd:
        for number in range(many):
            os.mknod(f"entry{number}", 0o600 | stat.S_IFREG, dir_fd=fd)
        assert len(os.listdir(folder)) == many
        assert len(set(os.listdir(folder))) == many
        assert (folder / "entry77777").stat().st_nlink == 1
        for number in range(0, many, 2):
            os.unlink(f"entry{number}", dir_fd=fd)
        assert sorted(os.listdir(folder)) == sorted(
            f"entry{number}" for number in range(1, many, 2)
        )


def test_folders_nest_a_thousand_deep(folder: Path) -> None:
    os.chdir(folder)
    try:
        for _ in range(1000):
            os.mkdir("d")
            os.chdir("d")
        with open("bottom", "wb") as file:
            file.write(b"deep")
        assert os.stat("bottom").st_size == 4
        with pytest.raises(OSError, match="too long"):
            os.stat(f"{folder}/" + "d/" * 2100 + "x")
        os.unlink("bottom")
        for _ in range(1000):
            os.chdir("..")
            os.rmdir("d")
        assert os.listdir(".") == []
    finally:
        os.chdir("/")


def test_a_working_folder_stays_one_while_its_parents_move(folder: Path) -> None:
    (folder / "a/b/c").mkdir(parents=True)
    os.chdir(folder / "a/b/c")
    try:
        (folder / "a").rename(folder / "z")
        assert os.getcwd() == str(folder / "z/b/c")
        (folder / "z/b").rename(folder / "b")
        assert os.getcwd() == str(folder / "b/c")
        assert os.path.samefile("..", folder / "b")
        assert os.path.samefile("../..", folder)
    finally:
        os.chdir("/")
