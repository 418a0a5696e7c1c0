"""Wheel and sdist in clean virtual environments: what a user gets with pip. Run by `make dist`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"

pytestmark = [pytest.mark.dist, pytest.mark.timeout(600)]


def call(*words: str | Path, cwd: Path | None = None) -> str:
    # Nothing of this checkout may be found by accident.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout


def version() -> str:
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def tracked(folder: str) -> set[str]:
    return set(call("git", "ls-files", folder, cwd=ROOT).splitlines())


@pytest.fixture(scope="module")
def built() -> dict[str, Path]:
    """Return the wheel and the sdist that `make dist` has built."""
    (wheel,) = DIST.glob("*.whl")
    (sdist,) = DIST.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def test_the_version_comes_from_one_place(built: dict[str, Path]) -> None:
    for path in built.values():
        assert path.name.startswith(f"dedupfs-{version()}")
    named = [
        path
        for path in tracked("dedupfs")
        if path.endswith(".py") and f'"{version()}"' in (ROOT / path).read_text()
    ]
    assert named == []


def test_the_wheel_has_every_file_of_the_package(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = set(archive.namelist())
    assert {path for path in tracked("dedupfs") if not path.endswith((".c", ".h"))} <= names
    assert [name for name in names if name.startswith("tests")] == []
    assert any(name.endswith(".so") for name in names), "the C extension was not built"


def test_the_sdist_has_all_to_build_and_test_and_no_paths_of_this_machine(
    built: dict[str, Path],
) -> None:
    wanted = tracked("dedupfs") | tracked("tests") | tracked("scripts")
    wanted |= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"}
    with tarfile.open(built["sdist"]) as archive:
        files = {
            member.name.partition("/")[2]: archive.extractfile(member)
            for member in archive.getmembers()
            if member.isfile()
        }
        assert wanted <= set(files)
        assert [name for name in files if name.endswith((".so", ".pyc"))] == []
        own = str(ROOT).encode() + b"/"
        for name, file in files.items():
            assert file is not None
            assert own not in file.read(), name


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_pip_installs_it_in_a_clean_environment(
    built: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    python, command = tmp_path / "venv/bin/python", tmp_path / "venv/bin/dedupfs"
    pip = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    # The locked versions, not what is newest today.
    call(*pip, "--require-hashes", "-r", ROOT / "requirements.lock")
    if kind == "sdist":
        call(*pip, "setuptools>=78")
    call(*pip, "--no-index", "--no-build-isolation", built[kind])
    assert call(command, "--version") == f"dedupfs {version()}\n"
    over = tmp_path / "over"
    script = f"head -c 300000 /dev/urandom >{over}/a; cp {over}/a {over}/b"
    call(command, "run", "-q", "--over", over, "--", "sh", "-c", script, cwd=tmp_path)
    code = (
        "import dedupfs, sys\n"
        f"with dedupfs.mounted({str(over)!r}) as mount:\n"
        "    status = mount.status()\n"
        f"assert (status.files, dedupfs.__version__) == (2, {version()!r})\n"
        "assert status.ratio > 1.8\n"
        f"assert dedupfs.__file__.startswith({str(tmp_path)!r})\n"
        "from dedupfs.fuse import replies\n"
        "assert replies.why_missing() is None\n"
    )
    call(python, "-c", code, cwd=tmp_path)
    call(*pip, "pytest>=9", "mypy>=2")
    (tmp_path / "test_it.py").write_text(
        "def test_it(dedupfs_mount):\n    assert dedupfs_mount.status().files == 0\n"
    )
    assert "1 passed" in call(python, "-m", "pytest", "-q", "test_it.py", cwd=tmp_path)
    (tmp_path / "typed.py").write_text(
        "import dedupfs\n"
        'with dedupfs.mounted("/x", capacity="1G") as mount:\n'
        "    reveal_type(mount.status().saved_bytes)\n"
    )
    said = call(python, "-m", "mypy", "--strict", "typed.py", cwd=tmp_path)
    assert 'Revealed type is "int"' in said or 'Revealed type is "builtins.int"' in said
