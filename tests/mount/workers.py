"""What other processes do in the tests: a module of its own, so that spawned ones can import it."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import multiprocessing
import os
import sqlite3
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.synchronize import Barrier

SPAWN = multiprocessing.get_context("spawn")


def run_at_once(work: Callable[..., None], arguments: Sequence[tuple[object, ...]]) -> None:
    """Run `work` in a process for each tuple; all must end well."""
    processes = [SPAWN.Process(target=work, args=given) for given in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    assert codes == [0] * len(processes), f"{work.__name__}: exit codes {codes}"


def add_rows(path: str, who: int, rows: int) -> None:
    """Put `rows` notes into a database that others write too, each in a transaction of its own."""
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as base:
        base.execute("pragma synchronous=normal")
        for row in range(rows):
            base.execute("begin immediate")
            base.execute("insert into note values (?, ?, ?)", (who, row, f"{who}/{row} " * 50))
            base.execute("update total set rows = rows + 1")
            base.execute("commit")


def content(seed: int, size: int) -> bytes:
    """Return bytes that no other seed gives."""
    return np.random.default_rng(seed).bytes(size)


def write_at_random_speed(path: str, size: int, seed: int, start: Barrier) -> None:
    """Write `content(7, size)` in calls and pauses of random length: ranks overtake one another."""
    data = memoryview(content(7, size))
    rng = np.random.default_rng(seed)
    start.wait()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    at = 0
    while at < size:
        length = int(2 ** rng.uniform(9, 21))
        at += os.write(fd, data[at : at + length])
        if rng.random() < 0.02:
            time.sleep(rng.uniform(0, 0.08))
    os.close(fd)


def write_rank(folder: str, files: int, size: int, start: Barrier) -> None:
    """Write the same files as every other rank, in calls of 128 KiB."""
    start.wait()
    for number in range(files):
        data = memoryview(content(number, size))
        with open(os.path.join(folder, f"{number}.arrow"), "xb", buffering=0) as file:
            file.writelines(data[at : at + 128 * 1024] for at in range(0, size, 128 * 1024))


def map_in_a_folder_that_goes(parent: str, size: int, start: Barrier) -> None:
    """Write a file into a temporary folder, map it, remove the folder, and read on."""
    data = content(os.getpid(), size)
    with tempfile.TemporaryDirectory(prefix="hf_datasets-", dir=parent) as folder:
        path = os.path.join(folder, "cache.arrow")
        with open(path, "xb") as file:
            file.write(data)
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        still_open = os.open(path, os.O_RDONLY)
        assert mapped[:4096] == data[:4096]
        start.wait()
    assert not os.path.exists(folder)
    start.wait()
    assert mapped[:] == data, "a mapped file changed when its folder was removed"
    assert os.pread(still_open, size, 0) == data
    assert os.fstat(still_open).st_nlink == 0
    mapped.close()
    os.close(still_open)


def hold_lock(path: str, locked: Barrier, release: Barrier) -> None:
    """Hold `flock(LOCK_EX)` and a record lock on the file from one barrier to the next."""
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)
        locked.wait()
        release.wait()


def count_in_file(path: str, times: int) -> None:
    """Add one to the number in the file, `times` times, under its lock."""
    for _ in range(times):
        with open(path, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            number = int(file.read()) + 1
            file.seek(0)
            file.write(str(number).encode())


def append_lines(path: str, who: int, lines: int) -> None:
    """Append whole lines with O_APPEND, each in one call."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    for line in range(lines):
        os.write(fd, f"{who} {line} {'x' * (line % 90)}\n".encode())
    os.close(fd)
