"""Each refusal is one line that says what to do; mounting anyway would hide or tangle files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import MountError
from dedupfs.service import mounts, preflight
from dedupfs.service.options import MountOptions

if TYPE_CHECKING:
    from pathlib import Path


def refusal(mountpoint: Path, store: Path, log_file: Path | None = None) -> str:
    with pytest.raises(MountError) as caught:
        preflight.prepare(MountOptions(mountpoint, store, log_file=log_file))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "mnt"
    path.mkdir()
    return path


def test_paths_are_resolved(tmp_path: Path, mountpoint: Path) -> None:
    (tmp_path / "link").symlink_to(mountpoint)
    options = preflight.prepare(MountOptions(tmp_path / "link", tmp_path / "x" / ".." / "s"))
    assert options.mountpoint == mountpoint
    assert options.store == tmp_path / "s"


def test_the_default_store_is_a_hidden_sibling(mountpoint: Path) -> None:
    assert preflight.default_store(mountpoint) == mountpoint.parent / ".mnt.dedupfs"


def test_a_missing_mount_point(tmp_path: Path) -> None:
    text = refusal(tmp_path / "no", tmp_path / "s")
    assert "does not exist" in text
    assert "mkdir" in text


def test_a_mount_point_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert "is not a directory" in refusal(tmp_path / "f", tmp_path / "s")
    assert "Not a directory" in refusal(tmp_path / "f" / "g", tmp_path / "s")


def test_a_mount_point_that_is_not_empty_names_the_ways_out(
    mountpoint: Path, tmp_path: Path
) -> None:
    (mountpoint / "model.bin").touch()
    text = refusal(mountpoint, tmp_path / "s")
    assert "is not empty" in text
    assert f"dedupfs import {mountpoint}" in text


@pytest.mark.parametrize("inside", ["", "store", "a/b/store"])
def test_a_store_inside_the_mount_point(mountpoint: Path, inside: str) -> None:
    assert "lies inside the mount point" in refusal(mountpoint, mountpoint / inside)


def test_a_store_inside_the_mount_point_by_a_symlink(mountpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(mountpoint)
    assert "lies inside the mount point" in refusal(mountpoint, tmp_path / "link" / "store")


def test_a_mount_point_inside_the_store(tmp_path: Path) -> None:
    (tmp_path / "s" / "mnt").mkdir(parents=True)
    assert "lies inside the store" in refusal(tmp_path / "s" / "mnt", tmp_path / "s")


def test_a_log_file_inside_the_mount_point(mountpoint: Path, tmp_path: Path) -> None:
    text = refusal(mountpoint, tmp_path / "s", log_file=mountpoint / "log")
    assert "log file" in text


def test_a_store_that_is_a_file(mountpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    assert "is not a directory" in refusal(mountpoint, tmp_path / "s")


def test_a_missing_fuse_device(
    mountpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "FUSE_DEVICE", tmp_path / "fuse")
    text = refusal(mountpoint, tmp_path / "s")
    assert "modprobe fuse" in text
    assert "--device /dev/fuse" in text


def test_a_dead_mount_that_another_process_clears_meanwhile_is_no_live_one(
    mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = mounts.Mount(1, 2, 3, mountpoint, mounts.FS_TYPE, "/s")
    looks = iter([dead])
    monkeypatch.setattr(mounts, "mount_at", lambda _path: next(looks, None))
    preflight.check_free(mountpoint)
