"""stress-ng and dbench: many system calls at once, each result checked by the one who called.

What is lost if one fails: a program that did the same would get a wrong answer, or hang.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mount.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mount.mounted import Mounted

pytestmark = pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True)

SECONDS = 3
DBENCH_LOAD = Path("/usr/share/dbench/client.txt")

# Those of a group run at once, one process each. Left out, and why:
#   fiemap, verity  ioctls, for which pyfuse3 has no handler: stress-ng skips them on FUSE
#   fsize  wants fallocate, for which pyfuse3 has none either; and with the writeback cache the kernel
#          takes writes at any offset, so what is over the limit fails in fsync and not in write
#   bind-mount, binderfs, procfs, ioprio, eventfd  their files are not in the folder given
#   io  syncs every file system of the machine, others' failing mounts too
#   io-uring  fails on ext4 too (stress-ng 0.15: statx of a file it has removed)
GROUPS = {
    "names": "chdir dentry dir dirdeep dirmany filename getdent link mknod rename symlink",
    "attributes": "access chattr chmod chown file-ioctl fstat handle inode-flags touch utime xattr",
    "locks": "dup fcntl flock lease locka lockf lockofd open",
    "events": "dnotify fanotify fifo inotify landlock",
    "data": "aio aiol copy-file fallocate fpunch hdd iomix",
    "more data": "full readahead revio seek sendfile splice sync-file dynlib",
    "maps": "mmap mmapfork mmapmany msync msyncmany munmap pagemove",
}  # fmt: skip
SIZES = (
    "--aiol-requests 8 --dirdeep-inodes 3000 --fallocate-bytes 8m --hdd-bytes 8m"
    " --iomix-bytes 8m --mmap-bytes 8m --msync-bytes 8m --readahead-bytes 8m --seek-size 4m"
    " --sync-file-bytes 8m"
)
MAY_SKIP = {"fanotify", "landlock", "handle"}  # need privileges or a kernel option


@pytest.fixture
def folder(mount: Mounted) -> Iterator[Path]:
    """A folder on the mount for one test; the daemon must be alive when it is left."""
    path = mount.path / "stress"
    path.mkdir()
    yield path
    assert mount.alive(), mount.log()
    shutil.rmtree(path)


@pytest.mark.timeout(180)
@pytest.mark.skipif(not shutil.which("stress-ng"), reason="stress-ng is not installed")
@pytest.mark.parametrize("stressors", GROUPS.values(), ids=GROUPS)
def test_no_stressor_finds_a_wrong_answer(folder: Path, tmp_path: Path, stressors: str) -> None:
    known = run("stress-ng", "--stressors").split()
    names = [name for name in stressors.split() if name in known]
    chosen = [word for name in names for word in (f"--{name}", "1")]
    output = run(
        "stress-ng", *chosen, *SIZES.split(), "--verify", "--temp-path", folder,
        "--timeout", f"{SECONDS}s", cwd=tmp_path, timeout_s=150, codes=(0, 2),
    )  # fmt: skip
    lines = output.splitlines()
    assert not [line for line in lines if "fail:" in line or "error:" in line]
    skipped = {name for name in names if re.search(rf"\b{name}\b.*skipp", output)}
    assert skipped <= MAY_SKIP, output
    assert not list(folder.iterdir()), "a stressor could not remove its files"


@pytest.mark.skipif(
    not shutil.which("dbench") or not DBENCH_LOAD.exists(), reason="dbench is not installed"
)
def test_dbench_runs_its_office_load(folder: Path, tmp_path: Path) -> None:
    output = run(
        "dbench", "-c", DBENCH_LOAD, "-D", folder, "-t", str(SECONDS), "4",
        cwd=tmp_path,
    )  # fmt: skip
    assert re.search(r"Throughput [\d.]+ MB/sec", output), output
    assert "ERROR" not in output.upper().replace("NO ERROR", ""), output
