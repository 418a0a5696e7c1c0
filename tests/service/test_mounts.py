"""A mount that is not recognised cannot be unmounted, reported or refused a second time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dedupfs.core.errors import MountError
from dedupfs.service import mounts


def test_a_line_of_mountinfo_is_taken_apart() -> None:
    line = (
        rb"57 27 0:45 / /mnt/a\040b\134c rw,nosuid shared:1 master:2 - fuse.dedupfs /s\043\012x rw"
    )
    mount = mounts.parse_mount(line)
    assert mount.mount_id == 57
    assert mount.parent_id == 27
    assert mount.device == os.makedev(0, 45)
    assert mount.path == Path("/mnt/a b\\c")
    assert mount.is_dedupfs
    assert mount.store == Path("/s#\nx")


def test_names_that_are_no_utf8_survive() -> None:
    mount = mounts.parse_mount(b"1 2 0:3 / /mnt/\xff rw - ext4 /dev/x rw")
    assert os.fsencode(mount.path) == b"/mnt/\xff"
    assert not mount.is_dedupfs


def test_the_root_is_a_mount_and_a_plain_folder_is_none(tmp_path: Path) -> None:
    assert mounts.mount_at(Path("/")) is not None
    assert mounts.mount_at(tmp_path) is None


def test_a_live_mount_is_not_stale() -> None:
    root = mounts.mount_at(Path("/"))
    assert root is not None
    assert not mounts.is_stale(root)


def test_unmounting_a_plain_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="cannot unmount"):
        mounts.unmount(tmp_path)
