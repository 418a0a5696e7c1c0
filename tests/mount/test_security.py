"""The threat model of the README: what another user of the machine can and cannot do."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import DedupfsError
from dedupfs.service import report, steering
from dedupfs.service.doctor.examine import examine
from mount.conftest import mounted
from mount.mounted import dedupfs, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mount.mounted import Mounted

STRANGER = 4321

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")


def as_stranger(act: Callable[[], object]) -> int:
    """Return the errno `act` fails with when another user calls it, 0 when it works."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups([])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            act()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that other users can enter, unlike pytest's own."""
    opened = []
    for folder in (tmp_path, *tmp_path.parents):
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
            opened.append((folder, mode))
    yield tmp_path
    for folder, mode in opened:
        folder.chmod(stat.S_IMODE(mode))


@pytest.fixture
def mount(base: Path, request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """A mount with the arguments of `request.param`."""
    with mounted(base, "auto", *request.param) as one:
        yield one


@pytest.mark.parametrize("mount", [()], indirect=True)
def test_without_allow_other_nobody_else_sees_anything(mount: Mounted) -> None:
    (mount.path / "file").write_text("text")
    (mount.path / "file").chmod(0o666)
    assert as_stranger(lambda: os.stat(mount.path / "file")) == errno.EACCES
    assert as_stranger(lambda: os.listdir(mount.path)) == errno.EACCES


@pytest.mark.parametrize("mount", [("--allow-other",)], indirect=True)
def test_with_allow_other_permissions_hold(mount: Mounted) -> None:
    mount.path.chmod(0o755)
    for name, mode in (("private", 0o600), ("public", 0o644)):
        (mount.path / name).write_text("text")
        (mount.path / name).chmod(mode)
    assert as_stranger((mount.path / "private").read_bytes) == errno.EACCES
    assert as_stranger((mount.path / "public").read_bytes) == 0
    assert as_stranger(lambda: (mount.path / "public").write_bytes(b"")) == errno.EACCES
    assert as_stranger(lambda: (mount.path / "new").write_bytes(b"")) == errno.EACCES
    assert (mount.path / "public").read_text() == "text"


@pytest.mark.parametrize("mount", [("--allow-other",)], indirect=True)
def test_the_store_and_its_socket_are_the_owners_alone(mount: Mounted) -> None:
    (mount.path / "file").write_bytes(os.urandom(1 << 20))
    assert stat.S_IMODE(mount.store.stat().st_mode) == 0o700
    for path in mount.store.rglob("*"):
        assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path
    # Even where the folder itself were open: the socket takes no stranger's command.
    mount.store.chmod(0o711)
    found = as_stranger(lambda: _connect(mount.store / "control.sock"))
    assert found == errno.EACCES
    segment = next((mount.store / "segments").iterdir())
    assert as_stranger(segment.read_bytes) == errno.EACCES


@pytest.mark.parametrize("mount", [("--allow-other",)], indirect=True)
def test_a_stranger_is_told_whose_the_store_is(mount: Mounted) -> None:
    def asks() -> None:
        with pytest.raises(DedupfsError, match="belongs to another user"):
            report.of_path(mount.path)
        with pytest.raises(DedupfsError, match="belongs to another user"):
            steering.gc(mount.path, dry_run=True)
        assert any("belongs to another user" in line for line in report.of_all()[1])
        assert any("another user" in found.text for found in examine(mount.path))

    assert as_stranger(asks) == 0


def _connect(path: Path) -> None:
    import socket  # noqa: PLC0415 - in the child

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("mount", [()], indirect=True)
def test_devices_and_setuid_programs_have_no_force(mount: Mounted) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (options,) = [line.split()[5] for line in lines if line.split()[4] == str(mount.path)]
    assert {"nosuid", "nodev"} <= set(options.split(","))


def test_an_open_folder_is_closed_when_it_becomes_a_store(base: Path) -> None:
    store = base / "store"
    store.mkdir()
    store.chmod(0o777)
    with mounted(base, "auto"):
        assert stat.S_IMODE(store.stat().st_mode) == 0o700


@pytest.mark.parametrize("planted", ["folder", "link"])
def test_a_store_planted_by_another_user_is_refused(base: Path, planted: str) -> None:
    # In /tmp anybody can make `.mnt.dedupfs` before the owner of `mnt` mounts.
    mnt, store, trap = base / "mnt", base / ".mnt.dedupfs", base / "trap"
    mnt.mkdir()
    place = store if planted == "folder" else trap
    place.mkdir()
    os.chown(place, STRANGER, STRANGER)
    if planted == "link":
        store.symlink_to(trap)
    done = dedupfs("mount", mnt)
    assert done.returncode == 1
    assert f"belongs to user {STRANGER}" in one_line(done.stderr)
    assert list(place.iterdir()) == []
