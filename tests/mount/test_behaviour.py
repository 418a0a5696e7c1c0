"""What several processes see of each other, and figures that must be true."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from mount.folders import fresh_folder, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = [
    pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True),
    pytest.mark.timeout(300),
]


@pytest.fixture
def folder(mount: Mounted, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a folder of the mount for one test."""
    with fresh_folder(mount, request.node.name) as place:
        yield place


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
