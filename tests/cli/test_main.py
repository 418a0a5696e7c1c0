"""The command line: one clear line for each error, quick to start, completion for shells."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dedupfs.cli import errors
from dedupfs.core.errors import MountError
from dedupfs.store.store import Store
from mount.mounted import command_environment, dedupfs

if TYPE_CHECKING:
    from pathlib import Path


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("dedupfs: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "Missing command"),
        (["mont"], "No such command 'mont'"),
        (["mount"], "Missing argument 'MOUNTPOINT' (see dedupfs mount --help)"),
        (["config", "shw"], "(see dedupfs config --help)"),
        (["mount", "a", "b"], "unexpected extra argument"),
        (["mount", "a", "--io", "fast"], "--io fast: want one of auto, passthrough, writeback"),
        (["mount", "a", "--capacity", "lots"], "--capacity lots: want a size above 0"),
        (["mount", "a", "--frob"], "No such option"),
        (["mount", "a", "--store"], "requires an argument"),
        (["mount", "a", "-o", "ro,frob"], "unknown mount option 'frob'"),
        (["mount", "a", "-o", "io=fast"], "want one of"),
        (["umount"], "Missing argument"),
        (["status", "--jsn"], "No such option"),
        (["--nope"], "No such option"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(arguments: list[str], part: str) -> None:
    done = dedupfs(*arguments)
    assert done.returncode == 2
    assert part in one_line(done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["mount", "{tmp}/no"], "does not exist"),
        (["mount", "{tmp}/file"], "is not a directory"),
        (["mount", "{tmp}"], "is not empty"),
        (["mount", "{tmp}/dir", "--store", "{tmp}/dir/s"], "lies inside the mount point"),
        (["mount", "{tmp}/dir", "--store", "{tmp}/link/s"], "lies inside the mount point"),
        (["mount", "{tmp}/dir", "--store", "{tmp}"], "lies inside the store"),
        (["mount", "{tmp}/dir", "--store", "{tmp}/file"], "is not a directory"),
        (["umount", "{tmp}/dir"], "is not a mount point"),
        (["umount", "{tmp}/no"], "is not a mount point"),
        (["umount", "/proc"], "is not a dedupfs mount but proc"),
        (["status", "{tmp}/dir"], "neither a dedupfs mount nor a store"),
        (["status", "--store", "{tmp}/dir"], "is not a dedupfs store"),
        (["report", "{tmp}/dir"], "is a folder: the page comes first"),
    ],
)
def test_a_refusal_is_one_line_and_exit_1(tmp_path: Path, arguments: list[str], part: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "dir")
    done = dedupfs(*(word.format(tmp=tmp_path) for word in arguments))
    assert done.returncode == 1
    assert part in one_line(done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dir", "file", "link"]


def test_help_shows_every_command_option_and_examples() -> None:
    page = dedupfs("--help").stdout
    for word in ("mount", "umount", "status", "--version", "Examples", "fstab", "Exit status"):
        assert word in page
    page = dedupfs("mount", "--help").stdout
    for word in (
        "--store",
        "--io",
        "--allow-other",
        "--foreground",
        "--log-file",
        "-o",
        "Examples",
    ):
        assert word in page
    assert "--json" in dedupfs("status", "-h").stdout


def test_version() -> None:
    done = dedupfs("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("dedupfs ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_for_each_shell(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dedupfs.cli"],
        env={**command_environment(), "_DEDUPFS_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "dedupfs" in done.stdout
    assert "complete" in done.stdout


def test_completion_offers_commands_and_choices() -> None:
    def offered(line: str) -> list[str]:
        words = line.split(" ")
        environment = {
            **command_environment(),
            "_DEDUPFS_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-m", "dedupfs.cli"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.split()

    assert offered("dedupfs um") == ["umount"]
    assert offered("dedupfs mount --io w") == ["writeback"]
    assert "--store" in offered("dedupfs mount --st")


def test_a_command_that_needs_no_fuse_imports_none_of_the_heavy_modules(tmp_path: Path) -> None:
    code = (
        "import sys; from dedupfs.cli.main import main\n"
        # Not of all mounts: one whose daemon was killed is read from its index.
        "sys.argv = ['dedupfs', 'status', '/']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'trio', 'pyfuse3', 'lmdb', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=command_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_status_of_a_store_as_json_and_as_table(tmp_path: Path) -> None:
    Store.open(tmp_path / "s").close()
    document = json.loads(dedupfs("status", tmp_path / "s", "--json").stdout)
    assert document["store"] == str(tmp_path / "s")
    assert document["mountpoint"] is None
    done = dedupfs("status", "--store", tmp_path / "s")
    assert done.returncode == 0
    assert "not mounted" in done.stdout
    assert "ratio" in done.stdout


def test_fsck_takes_the_mount_point_of_a_store_too(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    Store.open(tmp_path / ".m.dedupfs").close()
    done = dedupfs("fsck", tmp_path / "m")
    assert (done.returncode, done.stdout) == (0, "clean: 0 files in 0 folders\n")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MountError("no"), 1, "dedupfs: no\n"),
        (errors.UsageError("what"), 2, "dedupfs: what (see dedupfs --help)\n"),
        (KeyboardInterrupt(), 130, "dedupfs: interrupted\n"),
        (
            OSError(errno.ENOTCONN, "Transport endpoint is not connected", "/m"),
            1,
            "dedupfs: /m: a mount's daemon has died: `dedupfs mount` there again",
        ),
        (ZeroDivisionError("x"), 1, "dedupfs: internal error: ZeroDivisionError('x') (DEDUP"),
    ],
)
def test_no_error_shows_a_stack_trace(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    def command() -> None:
        raise error

    assert errors.exit_code(command) == code
    said = capsys.readouterr().err
    assert said.startswith(text)
    assert said.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_stack_trace(tmp_path: Path) -> None:
    Store.open(tmp_path / "s").close()
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m dedupfs.cli status {tmp_path}/s | true"],
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
