"""What Python programs of machine learning do in their cache folder.

What is lost if one fails: a training run, at its start, in its middle, or in its clean-up.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import shutil
import stat
import sys
import tempfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mount import workers
from mount.programs import drop_caches, run, tree
from mount.workers import SPAWN, content, run_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mount.mounted import Mounted

pytestmark = pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True)

MIB = 1 << 20


@pytest.fixture
def folder(mount: Mounted) -> Iterator[Path]:
    """A folder on the mount for one test; the daemon must be alive when it is left."""
    path = mount.path / "p"
    path.mkdir()
    yield path
    assert mount.alive(), mount.log()
    shutil.rmtree(path)


MANAGER = """
import multiprocessing, os, sys, tempfile

def work(shared, lock, who):
    for _ in range(50):
        with lock:
            shared["count"] = shared.get("count", 0) + 1
    shared[who] = os.getpid()

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    assert tempfile.gettempdir() == os.environ["TMPDIR"]
    with multiprocessing.Manager() as manager:
        assert manager.address.startswith(os.environ["TMPDIR"]), manager.address
        shared, lock = manager.dict(), manager.Lock()
        workers = [multiprocessing.Process(target=work, args=(shared, lock, n)) for n in range(3)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        print(shared["count"], len(shared))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_multiprocessing_manager_has_its_socket_on_the_mount(
    folder: Path, tmp_path: Path, method: str
) -> None:
    script = tmp_path / "manager.py"
    script.write_text(MANAGER)
    assert len(str(folder)) < 70, "a Unix socket's path has at most 107 bytes"
    environment = {"TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"}
    assert run(sys.executable, script, method, env=environment).split() == ["150", "4"]
    assert tree(folder) == {}


def test_temporary_folders_go_while_their_files_are_mapped(mount: Mounted, folder: Path) -> None:
    ranks = 4
    start = SPAWN.Barrier(ranks)
    run_at_once(workers.map_in_a_folder_that_goes, [(str(folder), 5 * MIB + 77, start)] * ranks)
    assert os.listdir(folder) == []
    left = [name for name in tree(mount.path) if ".fuse_hidden" in name]
    assert not left


def test_a_mapped_file_outlives_its_folder_and_the_page_cache(folder: Path) -> None:
    data = content(3, 3 * MIB)
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        path = os.path.join(inner, "a")
        with open(path, "wb") as file:
            file.write(data)
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    drop_caches()
    assert mapped[:] == data
    mapped.close()


def test_a_lock_keeps_other_processes_out(folder: Path) -> None:
    path = folder / "a.lock"
    path.write_bytes(b"0" * 200)
    locked, release = SPAWN.Barrier(2), SPAWN.Barrier(2)
    holder = SPAWN.Process(target=workers.hold_lock, args=(str(path), locked, release))
    holder.start()
    locked.wait(60)
    with path.open("r+b") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 105)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 115)
        release.wait(60)
        holder.join()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert holder.exitcode == 0


def test_a_counter_under_a_lock_counts_every_process(folder: Path) -> None:
    path = folder / "count"
    path.write_bytes(b"0")
    run_at_once(workers.count_in_file, [(str(path), 150)] * 3)
    assert path.read_bytes() == b"450"


def test_appends_of_several_processes_stay_whole(folder: Path) -> None:
    path = folder / "log"
    path.touch()
    run_at_once(workers.append_lines, [(str(path), who, 300) for who in range(3)])
    found = sorted(path.read_text().splitlines())
    assert found == sorted(f"{w} {n} {'x' * (n % 90)}" for w in range(3) for n in range(300))


def test_the_way_datasets_makes_a_cache_file(folder: Path) -> None:
    """A temporary file is kept open while a second handle truncates and writes it; then it moves."""
    data = content(5, 2 * MIB + 4321)
    with tempfile.NamedTemporaryFile("wb", dir=folder, delete=False) as kept:
        assert stat.S_IMODE(os.stat(kept.name).st_mode) == 0o600
        with open(kept.name, "wb") as writer:
            writer.writelines(data[at : at + 50_000] for at in range(0, len(data), 50_000))
        kept.flush()
        shutil.move(kept.name, folder / "cache-0123456789abcdef.arrow")
        os.chmod(folder / "cache-0123456789abcdef.arrow", 0o644)
    assert os.listdir(folder) == ["cache-0123456789abcdef.arrow"]
    result = folder / "cache-0123456789abcdef.arrow"
    assert stat.S_IMODE(result.stat().st_mode) == 0o644
    assert result.read_bytes() == data


def test_the_way_huggingface_hub_makes_a_download(folder: Path) -> None:
    """ftruncate to the full size, pieces in any order, rename, a relative symlink to it, utime."""
    data = content(6, 4 * MIB + 99)
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs").mkdir()
    part = folder / "blobs" / f"{digest}.incomplete"
    with part.open("wb") as file:
        file.truncate(len(data))
        for at in sorted(range(0, len(data), MIB), reverse=True):
            file.seek(at)
            file.write(data[at : at + MIB])
    part.replace(folder / "blobs" / digest)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / "model.bin").symlink_to(f"../blobs/{digest}")
    os.utime(folder / "snapshots" / "model.bin", ns=(1, 2))
    drop_caches()
    assert hashlib.sha256((folder / "snapshots" / "model.bin").read_bytes()).hexdigest() == digest
    assert (folder / "blobs" / digest).stat().st_mtime_ns == 2


def test_pyarrow_writes_and_maps(mount: Mounted, folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    rng = np.random.default_rng(8)
    table = pa.table({
        "input_ids": pa.array(rng.integers(0, 30_000, 400_000, dtype=np.int32)),
        "text": pa.array([f"row {number}" for number in range(400_000)]),
    })  # fmt: skip
    path = str(folder / "a.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    for _ in range(2):
        with pa.memory_map(path) as source:
            assert pa.ipc.open_stream(source).read_all().equals(table)
        mount.remount()


def test_numpy_memmap_changes_reach_the_store(mount: Mounted, folder: Path) -> None:
    path = folder / "a.npy"
    made = np.lib.format.open_memmap(path, "w+", np.float32, (1000, 1000))
    made[::7] = np.arange(1000)
    made.flush()
    want = hashlib.sha256(made.tobytes()).hexdigest()
    del made
    mount.remount()
    private = np.load(path, mmap_mode="c")
    private[:] = 1  # a private change stays in this process
    del private
    shared = np.load(path, mmap_mode="r+")
    assert hashlib.sha256(shared.tobytes()).hexdigest() == want
    shared[3] = -1
    del shared
    mount.remount()
    assert (np.load(path)[3] == -1).all()
    assert (np.load(path)[7] == np.arange(1000)).all()


def test_a_program_on_the_mount_runs(folder: Path) -> None:
    tool = folder / "sleep"
    shutil.copy2("/bin/sleep", tool)
    assert run(tool, "0.01") == ""
