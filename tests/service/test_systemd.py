"""Units: a wrong word mounts the wrong folder; a wrong directive hides the mount from everybody."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dedupfs.service import systemd

NAMESPACED = (
    "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectProc", "ProcSubset",
    "ProtectKernel", "ProtectControlGroups", "ProtectHostname", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths",
    "BindPaths", "TemporaryFileSystem", "RootDirectory", "MountFlags", "PrivateNetwork", "DynamicUser",
    "StateDirectory", "LogsDirectory",
)  # fmt: skip
IMPLY_NO_NEW_PRIVILEGES = (
    "NoNewPrivileges", "SystemCall", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime",
    "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute", "ProtectClock",
)  # fmt: skip
PATHS = ["/data/cache", "/", "/a b/ü-x/.c", "/.hidden", '/100%/$HOME/\\x/"q"', "/a//b/"]


def unit(path: str = "/data/cache", *flags: str, for_user: bool = False) -> systemd.Unit:
    return systemd.make_unit(
        Path(path), Path("/data/store"), ["/bin/true"], flags, for_user=for_user
    )


def directives(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("path", PATHS)
def test_names_are_those_of_systemd_escape(path: str) -> None:
    if shutil.which("systemd-escape") is None:
        pytest.skip("no systemd-escape")
    done = subprocess.run(
        ["systemd-escape", "--path", path], capture_output=True, text=True, check=True
    )
    assert systemd.escape_path(Path(path)) == done.stdout.strip()


def test_names_without_systemd() -> None:
    assert systemd.unit_name(Path("/data/my-cache")) == "dedupfs@data-my\\x2dcache.service"


@pytest.mark.parametrize("for_user", [False, True])
def test_nothing_hides_the_mount(for_user: bool) -> None:  # noqa: FBT001
    for name in directives(unit(for_user=for_user).text):
        assert not name.startswith(NAMESPACED)


def test_a_users_unit_lets_fusermount3_be_setuid() -> None:
    for name in directives(unit(for_user=True).text):
        assert not name.startswith(IMPLY_NO_NEW_PRIVILEGES)
    assert directives(unit(for_user=True).text)["WantedBy"] == "default.target"


def test_words_are_quoted_as_systemd_reads_them() -> None:
    start = directives(unit("/a b/100%", "--store", '/s$x"y').text)["ExecStart"]
    assert start == '/bin/true mount "/a b/100%%" --foreground --store "/s$$x\\"y"'


@pytest.mark.parametrize("for_user", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_systemd_finds_nothing_wrong(tmp_path: Path, path: str, for_user: bool) -> None:  # noqa: FBT001
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    made = unit(path, "--capacity", "200G", for_user=for_user)
    # systemd-analyze finds units by name only in folders it knows, or by path.
    file = tmp_path / made.name.replace("\\", "_")
    file.write_text(made.text)
    done = subprocess.run(
        ["systemd-analyze", *(["--user"] if for_user else []), "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
    )
    ours = [line for line in done.stderr.splitlines() if file.name in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


def test_a_wrong_directive_would_be_found(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    file = tmp_path / "x.service"
    file.write_text(unit().text.replace("KillMode=mixed", "KillMode=mix"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"x\.service:\d+: .*kill mode", done.stderr)
