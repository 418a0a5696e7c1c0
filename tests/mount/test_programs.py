"""cp, rsync, tar, git and sqlite3 do on a mount what they do on any disk.

What is lost if one fails: a cache, a checkout or a database that someone copied into the mount.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mount import workers
from mount.programs import assert_same_tree, drop_caches, run, tree
from mount.workers import run_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mount.mounted import Mounted

pytestmark = pytest.mark.parametrize("mount", ["writeback", "passthrough"], indirect=True)

MIB = 1 << 20


@pytest.fixture(scope="module")
def sources(plain: Path) -> Path:
    """A tree of everything a copy can get wrong: modes, links, holes, names, times, sockets aside."""
    top = plain / "sources"
    rng = np.random.default_rng(1)
    for number in range(60):
        folder = top / f"folder {number % 7}" / f"ünder {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"file\n{number}"
        file.write_bytes(rng.bytes(int(rng.integers(0, 70_000))))
        file.chmod([0o600, 0o644, 0o755, 0o4711, 0o2755, 0o444][number % 6])
        os.utime(file, ns=(10**18 + number, 10**18 + 123_456_789 * number))
    (top / ("n" * 255)).write_bytes(b"a name of 255 bytes")
    os.link(top / ("n" * 255), top / "hard link")
    os.link(top / ("n" * 255), top / "folder 0" / "hard link")
    (top / "symlink").symlink_to("folder 0/hard link")
    (top / "folder link").symlink_to("folder 1", target_is_directory=True)
    (top / "dangling").symlink_to("/nowhere/" + "x" * 500)
    os.mkfifo(top / "fifo", 0o640)
    (top / "empty").touch()
    with (top / "sparse").open("wb") as sparse:
        for offset in (5 * MIB, 20 * MIB):
            sparse.seek(offset)
            sparse.write(rng.bytes(10_000))
        sparse.truncate(40 * MIB)
    (top / "sticky").mkdir()
    (top / "sticky").chmod(0o1777)
    for name in tree(top):  # rsync takes times of one second for equal
        moment = (top / name).lstat().st_mtime_ns - 10**15
        os.utime(top / name, ns=(moment, moment), follow_symlinks=False)
    return top


@pytest.fixture
def folder(mount: Mounted) -> Iterator[Path]:
    """A folder on the mount for one test; the daemon must be alive when it is left."""
    path = mount.path / "programs"
    path.mkdir()
    yield path
    assert mount.alive(), mount.log()
    shutil.rmtree(path)


@pytest.mark.timeout(240)
def test_cp_of_a_virtual_environment(mount: Mounted, folder: Path) -> None:
    # All of it in one mode, a package of it in the other: it takes half a minute.
    whole = mount.io == "writeback"
    source, copy = Path(sys.prefix if whole else np.__path__[0]), folder / "copy"
    run("cp", "-a", source, copy, timeout_s=200)
    drop_caches()
    run("diff", "-r", "--no-dereference", source, copy)
    assert_same_tree(source, copy)
    if whole:  # links out of the tree are all that the copy needs: it runs
        assert run(copy / "bin" / "python", "-c", "import pytest; print(pytest.__file__)")


def test_cp_and_back(sources: Path, folder: Path, tmp_path: Path) -> None:
    run("cp", "-a", sources, folder / "there")
    assert_same_tree(sources, folder / "there")
    run("cp", "-a", folder / "there", tmp_path / "back")
    assert_same_tree(sources, tmp_path / "back")


def test_rsync_finds_nothing_to_do_the_second_time(sources: Path, folder: Path) -> None:
    command = ("rsync", "-aHS", "--checksum", "--itemize-changes", f"{sources}/", folder / "copy")
    run(*command)
    assert_same_tree(sources, folder / "copy")
    drop_caches()
    assert run(*command) == ""
    (folder / "copy" / "empty").write_text("changed")
    assert [line.split()[1] for line in run(*command).splitlines()] == ["empty"]
    assert_same_tree(sources, folder / "copy")


def test_tar_of_the_mount_keeps_holes_and_hard_links(
    sources: Path, folder: Path, tmp_path: Path
) -> None:
    flags = ("--sparse", "--xattrs", "--numeric-owner", "--same-permissions")
    run("tar", "-C", sources, *flags, "-cf", tmp_path / "one.tar", ".")
    (folder / "out").mkdir()
    run("tar", "-C", folder / "out", *flags, "-xf", tmp_path / "one.tar")
    assert_same_tree(sources, folder / "out")
    info = (folder / "out" / "sparse").stat()
    assert info.st_size == 40 * MIB
    assert info.st_blocks * 512 < MIB, "the holes take space"

    run("tar", "-C", folder / "out", *flags, "-cf", folder / "two.tar", ".")
    (tmp_path / "back").mkdir()
    run("tar", "-C", tmp_path / "back", *flags, "-xf", folder / "two.tar")
    assert_same_tree(sources, tmp_path / "back")


@pytest.fixture(scope="module")
def repository(plain: Path) -> Path:
    """A git repository of several commits and a branch, made from the standard library."""
    top = plain / "repository"
    top.mkdir()
    git(top, "init", "--initial-branch=main")
    for package in ("json", "email", "asyncio", "concurrent"):
        shutil.copytree(Path(os.__file__).parent / package, top / package)
        git(top, "add", ".")
        git(top, "commit", "-m", package)
    git(top, "checkout", "-b", "side")
    shutil.rmtree(top / "json")
    git(top, "commit", "-am", "without json")
    git(top, "checkout", "main")
    return top


def git(folder: Path, *arguments: str | Path) -> str:
    names = {
        f"GIT_{who}_{what}": "test@example.org"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    safe = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    return run("git", "-C", folder, *arguments, env={**names, **safe, "GIT_CONFIG_NOSYSTEM": "1"})


def test_git_clone_and_fsck(repository: Path, folder: Path) -> None:
    git(folder, "clone", f"file://{repository}", "one")
    one = folder / "one"
    git(one, "fsck", "--full", "--strict")
    assert git(one, "status", "--porcelain") == ""
    git(one, "checkout", "side")
    assert not (one / "json").exists()
    git(one, "checkout", "main")
    git(one, "gc", "--aggressive", "--prune=now")

    git(folder, "clone", "--local", one, "two")  # by hard links
    (folder / "two" / "new").write_text("new")
    git(folder / "two", "add", "new")
    git(folder / "two", "commit", "-m", "new")
    git(folder / "two", "push", "origin", "main:pushed")
    git(one, "merge", "pushed")
    drop_caches()
    for clone in (one, folder / "two"):
        git(clone, "fsck", "--full", "--strict")
        assert git(clone, "status", "--porcelain") == ""
    assert git(repository, "rev-parse", "main^{tree}") == git(one, "rev-parse", "main~1^{tree}")


def test_sqlite_with_several_writers_and_its_wal(mount: Mounted, folder: Path) -> None:
    path, writers, rows = str(folder / "base.sqlite"), 4, 100
    with contextlib.closing(sqlite3.connect(path)) as base:
        assert base.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        base.execute("create table note (who int, row int, text, primary key (who, row))")
        base.execute("create table total (rows int)")
        base.execute("insert into total values (0)")
        base.commit()
    run_at_once(workers.add_rows, [(path, who, rows) for who in range(writers)])

    ask = "pragma integrity_check; select count(*) from note; select rows from total;"
    want = ["ok", str(writers * rows), str(writers * rows)]
    assert run("sqlite3", path, ask).split() == want
    mount.remount()
    assert run("sqlite3", path, f"{ask} pragma journal_mode=delete; vacuum;").split() == [
        *want,
        "delete",
    ]
    assert run("sqlite3", path, ask).split() == want


def test_modes_survive_the_umask_and_a_read_only_file_stays_readable(folder: Path) -> None:
    run("install", "-m", "0750", "-D", "/bin/true", folder / "a" / "b" / "true")
    assert stat.S_IMODE((folder / "a" / "b" / "true").stat().st_mode) == 0o750
    run(folder / "a" / "b" / "true")
