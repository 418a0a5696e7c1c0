"""The Python API and the pytest fixture: a program that mounts must not be harmed by it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import dedupfs
from mount.mounted import Mounted, command_environment, is_mounted, is_running

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]


def test_a_block_has_a_mount_and_ends_it(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    with dedupfs.mounted(tmp_path / "m", store=tmp_path / "s", verify_reads=True) as mount:
        (mount / "a").write_bytes(content)
        with open(os.path.join(mount, "b"), "wb") as file:
            file.write(content)
        status = mount.status()
        assert is_running(status.daemon_pid)
        assert (status.files, status.logical_bytes) == (2, 600_000)
        assert 1.9 < status.ratio < 2.1
        assert status.saved_bytes > 250_000
        assert (status.mountpoint, status.store) == (tmp_path / "m", tmp_path / "s")
        assert status.document["pid"] == status.daemon_pid
    assert not is_mounted(tmp_path / "m")
    assert not is_running(status.daemon_pid)
    with pytest.raises(dedupfs.DedupfsError, match="its daemon has ended"):
        mount.status()


def test_the_blocks_error_is_told_and_the_mount_ends(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), dedupfs.mounted(tmp_path / "m", store=tmp_path / "s"):
        raise ZeroDivisionError
    assert not is_mounted(tmp_path / "m")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"capacty": "1G"}, 'did you mean "capacity"'),
        ({"capacity": "much"}, "--capacity much: want a size"),
        ({"io": "fast"}, "--io fast"),
        ({"store": "/proc/self/store"}, "/store: "),
    ],
)
def test_errors_are_one_line(tmp_path: Path, options: dict[str, str], part: str) -> None:
    with (
        pytest.raises(dedupfs.DedupfsError) as caught,
        dedupfs.mounted(tmp_path / "m", **options),  # type: ignore[arg-type]
    ):
        pass
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not is_mounted(tmp_path / "m")


def test_a_file_left_open_is_an_error_that_names_this_process(tmp_path: Path) -> None:
    one = Mounted(tmp_path / "m", tmp_path / "s")
    try:
        with (  # noqa: PT012 - the end of the block is what raises
            pytest.raises(dedupfs.DedupfsError, match=rf"stays mounted, used by pid {os.getpid()}"),
            dedupfs.mounted(one.path, store=one.store, wait_s=0) as mount,
        ):
            one.pid = mount.status().daemon_pid
            file = (mount / "f").open("w")
        file.close()
        with dedupfs.mounted(one.path, store=one.store):
            pass  # the next user ends it
        assert not is_mounted(one.path)
    finally:
        one.clear()


def test_threads_share_the_mount_and_forks_leave_it(tmp_path: Path) -> None:
    path, store = tmp_path / "m", tmp_path / "s"
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with dedupfs.mounted(path, store=store) as mount:
                (mount / f"t{number}").write_text("x")
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    with dedupfs.mounted(path, store=store) as mount:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        code = (
            "import dedupfs, os\n"
            f"with dedupfs.mounted({str(path)!r}, store={str(store)!r}) as mount:\n"
            "    child = os.fork()\n"
            "    if not child: raise SystemExit(3)\n"
            "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3\n"
            "    assert mount.status().files == 4\n"
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], env=command_environment(),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert mount.status().files == 4
    assert not is_mounted(path)


def test_importing_it_is_cheap_and_all_is_there() -> None:
    code = (
        "import sys, dedupfs, dedupfs.pytest_plugin\n"
        "heavy = {'trio', 'pyfuse3', 'lmdb', 'numpy', 'rich', 'typer', 'dedupfs.service'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert [getattr(dedupfs, name) for name in dedupfs.__all__]\n"
        "assert set(dedupfs.__all__) <= set(dir(dedupfs))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=command_environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_fixture_mounts_skips_and_takes_options(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        from pathlib import Path
        import pytest

        class TestMount:
            @pytest.fixture
            def dedupfs_options(self):
                return {"io": "writeback"}

            def test_it(self, dedupfs_mount):
                (dedupfs_mount / "f").write_bytes(b"x" * 5000)
                assert dedupfs_mount.status().document["io_mode"] == "writeback"
                assert os.path.ismount(dedupfs_mount)

        def test_no_fuse(monkeypatch, request):
            monkeypatch.setattr("dedupfs.pytest_plugin._DEVICE", Path("/no/device"))
            request.getfixturevalue("dedupfs_mount")
        """
    )
    done = pytester.runpytest_subprocess("-W", "error")  # found by its entry point
    done.assert_outcomes(passed=1, skipped=1)
