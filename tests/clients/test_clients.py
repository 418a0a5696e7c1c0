"""Unmodified libraries over a mount, four ranks at once: content right, bytes on disk once."""

from __future__ import annotations

import hashlib
import os
import random
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from clients import hub

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clients.conftest import Ranks
    from mount.mounted import Mounted

    Start = Callable[..., Ranks]
    Saving = Callable[..., float]

ARTIFACTS = int(os.environ.get("DEDUPFS_ARTIFACTS", "10000"))


def equal_answers(found: list[dict[str, Any]], *keys: str) -> None:
    for answer in found[1:]:
        for key in keys:
            assert answer[key] == found[0][key], (key, answer, found[0])


def expected_digest(files: dict[str, bytes]) -> str:
    """Return what programs/answering.py says of a folder with these files."""
    total = hashlib.sha256()
    order = sorted(files, key=lambda name: (name.count("/"), name))
    for name in order:
        total.update(name.encode())
        total.update(hashlib.sha256(files[name]).digest())
    return total.hexdigest()


@pytest.mark.parametrize(("kind", "least"), [("same", 3.95), ("differing", 3.9), ("workers", 3.8)])
def test_datasets_map(
    mount: Mounted, ranks: Start, saving: Saving, tmp_path: Path, kind: str, least: float
) -> None:
    # The pattern of ms-swift: a TemporaryDirectory for each rank below hub/tmp, gone at exit.
    folder = mount.path / "hub" / "tmp"
    plain = ranks("datasets", "map_dataset.py", tmp_path / "plain", "0", kind, count=1)
    want = plain.answers()[0]
    plain.release()
    started = ranks(
        "datasets", "map_dataset.py", folder, "{rank}", kind, env={"TMPDIR": str(mount.path)}
    )
    found = started.answers()
    equal_answers([want, *found], "digest", "total", "rows")
    assert saving(f"datasets map, {kind}") > least
    started.release()
    assert list(folder.iterdir()) == [], "a rank left something behind"
    assert [p.name for p in mount.path.iterdir()] == ["hub"], "temporary files of workers are left"


def test_modelscope_download(mount: Mounted, ranks: Start, saving: Saving, server: str) -> None:
    names = {"MODELSCOPE_ENDPOINT": server, "MODELSCOPE_DOMAIN": server.removeprefix("http://")}
    names["HOME"] = names["MODELSCOPE_CACHE"] = str(mount.path / "home{rank}")
    folder = mount.path / "rank{rank}"
    started = ranks("modelscope", "download_model.py", folder, "modelscope", env=names)
    found = started.answers()
    assert {answer["digest"] for answer in found} == {expected_digest(hub.repo_files())}
    assert saving() > 3.9
    started.release()


def test_huggingface_hub_cache(mount: Mounted, ranks: Start, saving: Saving, server: str) -> None:
    names = {"HF_ENDPOINT": server, "HF_HOME": str(mount.path / "home{rank}")}
    folder = mount.path / "rank{rank}"
    started = ranks("datasets", "download_model.py", folder, "huggingface", env=names)
    found = started.answers()
    assert {answer["digest"] for answer in found} == {expected_digest(hub.repo_files())}
    assert all(answer["links"] == 3 for answer in found), "the cache's symlinks"
    assert all(answer["again"] == answer["path"] for answer in found), "found again, offline"
    assert saving() > 3.9
    started.release()


def test_torch_and_safetensors(mount: Mounted, ranks: Start, saving: Saving) -> None:
    started = ranks("torch", "save_tensors.py", mount.path / "rank{rank}")
    equal_answers(started.answers(), "digest")
    # The two formats of one rank hold the same tensors, shifted: they share as well.
    assert saving() > 6
    started.release()


def test_clearml_storage_manager(
    mount: Mounted, ranks: Start, saving: Saving, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"CLEARML_CACHE_DIR": str(mount.path), "CLEARML_LOG_LEVEL": "ERROR"}
    names |= {f"CLEARML_{kind}_HOST": server for kind in ("API", "WEB", "FILES")}
    names |= {"CLEARML_API_ACCESS_KEY": "key", "CLEARML_API_SECRET_KEY": "secret"}
    names["HOME"] = str(mount.path / "home")
    started = ranks("clearml", "get_artifacts.py", server, ARTIFACTS, env=names, count=1)
    (found,) = started.answers()
    with capsys.disabled():
        print(f"\nclearml, median ms of 200 at the start and at {ARTIFACTS:,} files:", found)
    assert found["wrong"] == 0
    assert found["files"] >= ARTIFACTS
    saving()
    started.release()


# pip's cache and both installations of all ranks are copies; uv makes hard links within a rank.
@pytest.mark.parametrize(("installer", "least"), [("pip", 11.9), ("uv", 3.95)])
def test_package_caches(
    mount: Mounted, ranks: Start, saving: Saving, tmp_path: Path, installer: str, least: float
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    data = random.Random(5).randbytes(16 << 20)
    _make_wheel(packages, data)
    with hub.serving(packages) as address:
        folder = mount.path / "rank{rank}"
        started = ranks("installers", "install_package.py", installer, folder, address)
        found = started.answers()
        equal_answers(found, "digest")
        assert all(answer["again"] == answer["digest"] for answer in found)
        assert (mount.path / "rank3/second/bigpackage/data.bin").read_bytes() == data
        assert saving(f"{installer} cache and two installations") > least
        started.release()


def _make_wheel(folder: Path, data: bytes) -> None:
    info = "bigpackage-1.0.dist-info"
    files = {
        "bigpackage/__init__.py": b"",
        "bigpackage/data.bin": data,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: bigpackage\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / "bigpackage-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in {**files, f"{info}/RECORD": record.encode()}.items():
            wheel.writestr(name, content)
