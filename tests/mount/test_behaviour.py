"""What several processes see of each other, and folders that change while they are listed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = [
    pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True),
    pytest.mark.timeout(300),
]
_libc: Final = ctypes.CDLL(None, use_errno=True)
_KINDS: Final = {stat.S_IFREG: 8, stat.S_IFDIR: 4, stat.S_IFLNK: 10, stat.S_IFIFO: 1}
SYS_GETDENTS64: Final = {"x86_64": 217, "aarch64": 61}.get(os.uname().machine)


@pytest.fixture
def folder(mount: Mounted, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a folder of the mount for one test; the daemon must be alive after it."""
    place = mount.path / request.node.name.replace("[", "-").rstrip("]")
    place.mkdir()
    yield place
    assert mount.alive(), f"the daemon died: {mount.log()}"


def in_child(body: Callable[[], None]) -> Callable[[], int]:
    """Run `body` in a forked process at once; the result waits for it and gives its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            body()
            code = 0
        except OSError as error:
            code = error.errno or 98
        finally:
            os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open for the block: a handle left behind would keep the mount busy."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


# ---- locks


def locked_by_child(path: Path, operation: int, *, posix: bool) -> int:
    def body() -> None:
        with path.open("r+b") as file:
            (fcntl.lockf if posix else fcntl.flock)(file, operation | fcntl.LOCK_NB)

    return in_child(body)()


@pytest.mark.parametrize("posix", [False, True], ids=["flock", "fcntl"])
def test_a_lock_keeps_other_processes_out_until_it_is_let_go(folder: Path, posix: bool) -> None:  # noqa: FBT001
    path = folder / f"lock{posix}"
    path.write_bytes(b"0" * 100)
    lock = fcntl.lockf if posix else fcntl.flock
    with path.open("r+b") as file:
        lock(file, fcntl.LOCK_EX)
        assert locked_by_child(path, fcntl.LOCK_EX, posix=posix) == errno.EAGAIN
        assert locked_by_child(path, fcntl.LOCK_SH, posix=posix) == errno.EAGAIN
        lock(file, fcntl.LOCK_SH)
        assert locked_by_child(path, fcntl.LOCK_EX, posix=posix) == errno.EAGAIN
        assert locked_by_child(path, fcntl.LOCK_SH, posix=posix) == 0
        lock(file, fcntl.LOCK_UN)
        assert locked_by_child(path, fcntl.LOCK_EX, posix=posix) == 0
        lock(file, fcntl.LOCK_EX)
    assert locked_by_child(path, fcntl.LOCK_EX, posix=posix) == 0, "closing lets a lock go"


def test_locks_of_byte_ranges_are_apart(folder: Path) -> None:
    path = folder / "ranges"
    path.write_bytes(b"0" * 100)

    def other(start: int) -> int:
        def body() -> None:
            with path.open("r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)

        return in_child(body)()

    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 20)
        assert [other(start) for start in (0, 10, 15, 25, 30)] == [
            0,
            0,
            errno.EAGAIN,
            errno.EAGAIN,
            0,
        ]


def test_a_waiting_process_gets_the_lock_when_it_is_let_go(folder: Path) -> None:
    path = folder / "wait"
    path.write_bytes(b"")
    begin, begun = os.pipe()

    def body() -> None:
        os.read(begin, 1)
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(b"mine")

    # The child is there before the lock is taken: it must not inherit the locked file.
    waiting = in_child(body)
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(begun, b"1")
        assert path.read_bytes() == b""
    assert waiting() == 0
    assert path.read_bytes() == b"mine"
    os.close(begin)
    os.close(begun)


# ---- races that must have one winner


def test_of_many_processes_that_make_one_name_exactly_one_wins(folder: Path) -> None:
    def contest(make: Callable[[str], object], label: str) -> Counter[int]:
        path = str(folder / label)
        return Counter(wait() for wait in [in_child(lambda: make(path) and None) for _ in range(8)])

    (folder / "source").write_bytes(b"x")
    makers: dict[str, Callable[[str], object]] = {
        "open": lambda path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        "mkdir": os.mkdir,
        "symlink": lambda path: os.symlink("t", path),
        "link": lambda path: os.link(folder / "source", path),
        "mkfifo": os.mkfifo,
    }
    for label, make in makers.items():
        assert contest(make, label) == {0: 1, errno.EEXIST: 7}, label


def test_appending_processes_lose_no_record(folder: Path) -> None:
    path, each, size = folder / "log", 200, 97

    def writer(number: int) -> Callable[[], None]:
        def body() -> None:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for record in range(each):
                os.write(fd, f"{number}:{record}".encode().ljust(size - 1, b".") + b"\n")
            os.close(fd)

        return body

    assert [wait() for wait in [in_child(writer(number)) for number in range(6)]] == [0] * 6
    records = [line.rstrip(b".") for line in path.read_bytes().splitlines()]
    assert path.stat().st_size == 6 * each * size
    for number in range(6):
        mine = [record for record in records if record.startswith(b"%d:" % number)]
        assert mine == [b"%d:%d" % (number, record) for record in range(each)]


def test_a_name_that_is_replaced_is_never_missing(folder: Path) -> None:
    """The rename of a finished file over the old one: readers find the one or the other."""
    path, stop = folder / "current", folder / "stop"
    path.write_bytes(b"0" * 1000)

    def reader() -> None:
        while not stop.exists():
            data = path.read_bytes()
            if len(data) != 1000 or len(set(data)) != 1:
                os._exit(50)

    waiting = in_child(reader)
    for number in range(300):
        fresh = folder / "fresh"
        fresh.write_bytes(b"%d" % (number % 10) * 1000)
        fresh.rename(path)
    stop.touch()
    assert waiting() == 0


# ---- what lies in the folder besides files


def test_a_socket_and_a_fifo_carry_data_between_processes(folder: Path) -> None:
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
            server.listen()
            os.mkfifo("f")

            def body() -> None:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect("s")
                    client.sendall(b"through the socket")
                with open("f", "wb") as fifo:
                    fifo.write(b"through the fifo")

            waiting = in_child(body)
            with server.accept()[0] as one:
                assert one.recv(100) == b"through the socket"
            with open("f", "rb") as fifo:
                assert fifo.read() == b"through the fifo"
            assert waiting() == 0
    finally:
        os.chdir("/")


# ---- folders


def getdents(fd: int, size: int = 400) -> list[tuple[str, int, int, int]]:
    """Return a few entries: name, inode, kind, cookie."""
    buffer = ctypes.create_string_buffer(size)
    count = _libc.syscall(SYS_GETDENTS64, fd, buffer, size)
    assert count >= 0, os.strerror(ctypes.get_errno())
    entries, at = [], 0
    while at < count:
        ino, cookie, length, kind = struct.unpack_from("=QqHB", buffer, at)
        name = buffer.raw[at + 19 : at + length].split(b"\0", 1)[0]
        entries.append((os.fsdecode(name), ino, kind, cookie))
        at += length
    return entries


def entries_of(fd: int) -> list[tuple[str, int, int, int]]:
    found = []
    while some := getdents(fd):
        found += some
    return found


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


# ---- figures


def test_statvfs_tells_of_the_disk_below(folder: Path, mount: Mounted) -> None:
    here, disk = os.statvfs(folder), os.statvfs(mount.store)
    assert here.f_namemax == 255
    assert 0 < here.f_bavail <= here.f_bfree <= here.f_blocks
    free, below = here.f_bavail * here.f_frsize, disk.f_bavail * disk.f_frsize
    assert abs(free - below) < 1 << 30
    assert here.f_files >= here.f_ffree > 0


def test_the_free_space_shrinks_by_what_is_stored(folder: Path) -> None:
    def free() -> int:
        found = os.statvfs(folder)
        return found.f_bfree * found.f_frsize

    before = free()
    with (folder / "random").open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    assert before - free() > 100 << 20


def test_blocks_of_a_hole_are_not_counted(folder: Path) -> None:
    path = folder / "sparse"
    with path.open("wb") as file:
        file.write(b"head")
        file.truncate(1 << 40)
        file.seek((1 << 40) - 4)
        file.write(b"tail")
    assert path.stat().st_size == 1 << 40
    assert path.stat().st_blocks * 512 <= 1 << 20
    with path.open("rb") as file:
        assert file.read(8) == b"head\0\0\0\0"
        file.seek(-8, os.SEEK_END)
        assert file.read() == b"\0\0\0\0tail"


def test_a_file_goes_beyond_four_gib(folder: Path) -> None:
    places = [(1 << 32) - 5, (1 << 32) + 77, (5 << 30) + 1]
    with opened(folder / "big", os.O_RDWR | os.O_CREAT) as fd:
        for place in places:
            os.pwrite(fd, b"at %20d" % place, place)
        os.fsync(fd)
        assert [os.pread(fd, 23, place) for place in places] == [
            b"at %20d" % place for place in places
        ]
        assert os.fstat(fd).st_size == places[-1] + 23


def test_threads_of_one_process_share_handles(folder: Path) -> None:
    """pread and pwrite of one descriptor from many threads, each on its own pages."""
    with opened(folder / "threads", os.O_RDWR | os.O_CREAT) as fd:
        wrong: list[int] = []

        def work(number: int) -> None:
            for turn in range(50):
                data = bytes([number, turn]) * 2048
                os.pwrite(fd, data, number * 4096)
                if os.pread(fd, 4096, number * 4096) != data:
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
