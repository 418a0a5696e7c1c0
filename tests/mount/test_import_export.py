"""Import and export: what fails here has lost somebody's cache, or a part of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.transfer import importing
from dedupfs.transfer.estimating import Estimator
from dedupfs.transfer.tree import TransferError, silent
from mount.mounted import Mounted, command_environment, dedupfs, is_mounted, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = [b"new\nline", b"no text \xff\xfe", b"n" * 255, b" leading", b"-rf"]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder to import, and look that no mount is left behind."""
    (tmp_path / "cache").mkdir()
    yield tmp_path / "cache"
    left = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(tmp_path) in line and "fuse.dedupfs" in line
    ]
    for line in left:
        subprocess.run(["umount", "-l", line.split(" ")[4]], check=False)
    assert left == [], "a mount was left behind"


def fill(root: Path) -> None:
    """Make one of everything."""
    content = os.urandom(700_000)
    for rank in ("rank0", "rank1"):
        (root / rank / "deep" / "er").mkdir(parents=True)
        (root / rank / "deep" / "er" / "data.arrow").write_bytes(content)
    (root / "empty").mkdir()
    (root / "empty file").touch()
    for name in NAMES:
        with open(os.fsencode(root) + b"/" + name, "wb") as file:
            file.write(name)
    os.link(root / "rank0/deep/er/data.arrow", root / "hard")
    os.symlink("rank0/nowhere", root / "dangling")
    os.symlink(b"\xff", os.fsencode(root) + b"/odd link")
    with open(root / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"island")
    for name, zeros in (("zeros at the end", 200_000), ("a few", 10), ("a page", 65536)):
        (root / name).write_bytes(b"x" * 70_000 + bytes(zeros))
    (root / "only zeros").write_bytes(bytes(300_000))
    os.mkfifo(root / "fifo")
    os.setxattr(root / "hard", "user.colour", b"blue\0")
    os.chmod(root / "empty file", 0o4640)
    if os.geteuid() == 0:
        os.chown(root / "rank1/deep", 1234, 2345)
        os.setxattr(root / "empty", "trusted.mark", b"1")
    for at, path in enumerate([root / "rank1/deep/er/data.arrow", root / "empty", root]):
        os.utime(path, ns=(1_111_111_111_000_000_000 + at, 1_000_000_000_123_456_789 + at))
    os.utime(root / "dangling", ns=(5, 7), follow_symlinks=False)
    os.chmod(root / "rank0/deep", 0o555)


def looks(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Return everything a copy is to keep, by relative path."""
    out: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    top = os.fsencode(root)
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files, b"."]:
            path = os.path.normpath(os.path.join(folder, name))
            found = os.lstat(path)
            rel = path[len(top) :]
            is_folder = stat.S_ISDIR(found.st_mode)
            content: object = None
            if stat.S_ISREG(found.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(found.st_mode):
                content = os.readlink(path)
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            twin = None if is_folder else first.setdefault(found.st_ino, rel)
            out[rel] = (
                found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, content, attributes,
                None if is_folder else found.st_size,
                twin if found.st_nlink > 1 else None,
            )  # fmt: skip
    return out


def test_everything_is_kept_both_ways(cache: Path, tmp_path: Path) -> None:
    fill(cache)
    before = looks(cache)
    done = dedupfs("import", cache, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    aside = cache.with_name("cache.before-dedupfs")
    assert document["originals"] == str(aside)
    assert document["lost"] == {}
    assert document["allocated_bytes"] < 1_000_000
    assert looks(aside) == before
    assert list(cache.iterdir()) == []
    assert cache.stat().st_mode == aside.stat().st_mode
    with socket.socket(socket.AF_UNIX) as link:
        link.bind(str(tmp_path / "s"))  # a socket beside it is nobody's business
    one = Mounted(cache, tmp_path / ".cache.dedupfs")
    try:
        one.start()
        assert looks(cache) == before
        live = dedupfs("export", cache, tmp_path / "live")
        assert live.returncode == 0, live.stderr
        one.stop()
    finally:
        one.clear()
    assert looks(tmp_path / "live") == before
    assert dedupfs("export", tmp_path / ".cache.dedupfs", tmp_path / "out").returncode == 0
    assert looks(tmp_path / "out") == before
    assert (tmp_path / "out/sparse").stat().st_blocks * 512 < 1 << 20
    again = dedupfs("export", tmp_path / ".cache.dedupfs", tmp_path / "out")
    assert "is not empty" in one_line(again.stderr)
    (tmp_path / "out/empty file").unlink()
    (tmp_path / "out/hard").write_bytes(b"broken off")
    resumed = dedupfs("export", tmp_path / ".cache.dedupfs", tmp_path / "out", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert looks(tmp_path / "out") == before


def test_originals_go_only_when_agreed_and_unchanged(cache: Path) -> None:
    (cache / "a").write_bytes(b"a" * 10_000)
    (cache / "b").write_bytes(b"b" * 10_000)
    assert dedupfs("import", cache, "-q").returncode == 0
    aside = cache.with_name("cache.before-dedupfs")
    asked = dedupfs("import", cache, "--delete-originals")
    assert asked.returncode == 1
    assert f"would remove {aside}: 2 files, " in asked.stdout
    assert "--yes" in one_line(asked.stderr)
    assert (aside / "a").exists()
    (aside / "b").write_bytes(b"new")
    refused = dedupfs("import", cache, "--delete-originals", "--yes")
    assert refused.returncode == 1
    assert "nothing is removed" in refused.stderr
    assert f"{aside / 'b'}: has changed" in refused.stderr
    assert sorted(path.name for path in aside.iterdir()) == ["a", "b"]


def test_import_and_delete_in_one_go(cache: Path) -> None:
    fill(cache)
    done = dedupfs("import", cache, "--delete-originals", "-y", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert not cache.with_name("cache.before-dedupfs").exists()
    look = dedupfs("run", "-q", "--over", cache, "--", "test", "-p", cache / "fifo")
    assert look.returncode == 0


def test_an_import_that_is_done_says_so_and_new_files_are_not_swept_away(cache: Path) -> None:
    (cache / "a").write_bytes(b"a")
    assert dedupfs("import", cache, "-q").returncode == 0
    assert "were imported before" in dedupfs("import", cache).stdout
    (cache / "late").write_bytes(b"written while nothing was mounted")
    done = dedupfs("import", cache)
    assert done.returncode == 1
    assert "is there already" in one_line(done.stderr)
    assert (cache / "late").exists()


def test_a_second_import_adds_and_does_not_replace_unasked(cache: Path) -> None:
    (cache / "a").write_bytes(b"first")
    assert dedupfs("import", cache, "--delete-originals", "-y", "-q").returncode == 0
    (cache / "a").write_bytes(b"second")
    (cache / "b").write_bytes(b"more")
    done = dedupfs("import", cache)
    assert done.returncode == 1
    assert f"{cache / 'a'}: the target has another one of that name" in done.stderr
    assert (cache / "a").read_bytes() == b"second"
    assert dedupfs("import", cache, "--replace", "-q").returncode == 0
    script = f"cat {cache}/a {cache}/b"
    assert dedupfs("run", "-q", "--over", cache, "--", "sh", "-c", script).stdout == "secondmore"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_import_broken_off_goes_on(cache: Path, number: int) -> None:
    content = os.urandom(1 << 20)
    for at in range(150):
        (cache / f"f{at:03}").write_bytes(content[at:] + content[:at])
    before = looks(cache)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "dedupfs.cli", "import", str(cache)],
        env=command_environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        record = cache.with_name(".cache.dedupfs") / "import.json"
        while not record.exists() and running.poll() is None:
            time.sleep(0.005)
        time.sleep(0.15)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    assert running.returncode != 0, "it was over before the signal"
    assert looks(cache) == before
    if number != signal.SIGKILL:
        assert "goes on from here" in one_line(said)
    (cache / "f003").unlink()
    (cache / "f004").write_bytes(b"changed meanwhile")
    before = looks(cache)
    done = dedupfs("import", cache, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    out = cache.with_name("out")
    assert dedupfs("export", cache.with_name(".cache.dedupfs"), out, "-q").returncode == 0
    assert looks(out) == before


def test_an_interrupted_export_says_how_to_go_on(cache: Path, tmp_path: Path) -> None:
    (cache / "big").write_bytes(os.urandom(200 << 20))
    assert dedupfs("import", cache).returncode == 0
    with subprocess.Popen(
        [sys.executable, "-m", "dedupfs.cli", "export", str(cache), str(tmp_path / "out")],
        env=command_environment(), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not (tmp_path / "out").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert "with --resume" in one_line(process.communicate()[1])
    assert dedupfs("export", cache, tmp_path / "out", "--resume").returncode == 0
    assert (tmp_path / "out/big").stat().st_size == 200 << 20


def test_a_daemon_that_dies_meanwhile_is_one_line_and_the_next_import_goes_on(cache: Path) -> None:
    for name in "abc":
        (cache / name).write_bytes(os.urandom(3_000_000))
    before = looks(cache)
    killed: list[int] = []

    def meanwhile(what: str, at: int, _total: int) -> None:
        if what == "copying" and at > 4_000_000 and not killed:
            lock = json.loads((cache.with_name(".cache.dedupfs") / "lock").read_text())
            killed.append(lock["pid"])
            os.kill(lock["pid"], signal.SIGKILL)

    with pytest.raises(TransferError, match=r"has died .* goes on from here"):
        importer(cache, meanwhile).run()
    importer(cache, silent).run()
    assert looks(cache.with_name("cache.before-dedupfs")) == before


def importer(cache: Path, hook: Callable[[str, int, int], None]) -> importing.Import:
    return importing.begin(cache, None, replaces=False, tick=hook)


@pytest.mark.parametrize("how", ["content", "same size and time", "new name", "name gone"])
def test_a_file_that_changes_meanwhile_is_noticed(cache: Path, how: str) -> None:
    for name in "abc":
        (cache / name).write_bytes(name.encode() * 3_000_000)
    done: list[str] = []

    def meanwhile(what: str, at: int, _total: int) -> None:
        if what != "comparing" or done or at < 4_000_000:
            return
        done.append(how)
        if how == "content":
            (cache / "a").write_bytes(b"other")
        elif how == "same size and time":
            found = (cache / "a").stat()
            (cache / "a").write_bytes(b"A" * 3_000_000)
            os.utime(cache / "a", ns=(found.st_atime_ns, found.st_mtime_ns))
        elif how == "new name":
            (cache / "d").touch()
        else:
            (cache / "c").unlink()

    with pytest.raises(TransferError, match=r"changed|gone|more names|No such file") as caught:
        importer(cache, meanwhile).run()
    assert done == [how]
    assert "run the command again" in str(caught.value).splitlines()[0].replace("\n", " ")
    assert not cache.with_name("cache.before-dedupfs").exists()
    now = looks(cache)
    importer(cache, silent).run()
    assert looks(cache.with_name("cache.before-dedupfs")) == now


def test_rot_in_the_store_is_found_before_the_originals_are_put_aside(cache: Path) -> None:
    (cache / "a").write_bytes(os.urandom(3_000_000))

    def meanwhile(what: str, at: int, _total: int) -> None:
        if what == "copying" and at == 3_000_000:
            return
        if what == "comparing" and at <= 1 << 20:
            segments = cache.with_name(".cache.dedupfs") / "segments"
            for path in segments.iterdir():
                with path.open("r+b") as file:
                    file.seek(2_500_000)
                    file.write(b"rot")

    with pytest.raises(TransferError, match=r"content differs|Input/output"):
        importer(cache, meanwhile).run()
    assert (cache / "a").exists()


def test_what_cannot_be_imported_is_one_line(cache: Path, tmp_path: Path) -> None:
    (cache / "f").touch()
    cases: list[tuple[list[str | Path], str]] = [
        ([tmp_path / "no"], "is not a directory"),
        ([cache / "f"], "is not a directory"),
        (["/proc"], "is a mount (proc)"),
        ([cache, "--store", cache / "s"], "must not lie in one another"),
        ([cache, "--delete-originals", "--store", "/proc/x"], "/proc"),
    ]
    for arguments, part in cases:
        done = dedupfs("import", *arguments)
        assert done.returncode == 1
        assert part in one_line(done.stderr)
    assert (cache / "f").exists()


def test_no_room_is_said_beforehand_with_how_much(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "a").write_bytes(os.urandom(3_000_000))
    free = 40 << 20
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=free))
    with pytest.raises(TransferError, match=r"40.0 MiB free, .* needs 66.9 MiB .* 26.9 MiB more"):
        importer(cache, silent).run()
    assert not cache.with_name(".cache.dedupfs").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs")
def test_a_disk_that_runs_full_loses_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for name in "abcd":
        (cache / name).write_bytes(os.urandom(8 << 20))
    before = looks(cache)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(disk)], check=True)
    try:
        work = importing.begin(cache, disk / "store", replaces=False, tick=silent)
        monkeypatch.setattr(work, "_check_room", lambda *_found, **_flags: None)
        with pytest.raises(TransferError, match="no space left"):
            work.run()
        assert looks(cache) == before
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        work.run()
        assert looks(cache.with_name("cache.before-dedupfs")) == before
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_store_in_use_is_filled_through_its_mount(cache: Path, tmp_path: Path) -> None:
    (cache / "a").write_bytes(b"a" * 100_000)
    one = Mounted(tmp_path / "mnt", tmp_path / "store")
    try:
        one.start()
        (one.path / "other").write_bytes(b"was here")
        done = dedupfs("import", cache, "--store", one.store)
        assert done.returncode == 0, done.stderr
        assert one.alive()
        assert (one.path / "a").read_bytes() == b"a" * 100_000
        assert (one.path / "other").read_bytes() == b"was here"
        one.stop()
    finally:
        one.clear()
    assert not is_mounted(one.path)


def test_a_mount_keeps_what_the_estimate_promises(cache: Path) -> None:
    content = os.urandom(2 << 20)
    for name in "abc":
        (cache / name).write_bytes(name.encode() + content)
    work = Estimator(os.fsencode(cache), silent)
    work.run()
    promised = work.result().unique_bytes
    done = dedupfs("import", cache, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["allocated_bytes"] <= promised + 65536
