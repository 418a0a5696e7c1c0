"""What mount(8) hands to its helper; a wrong exit code would hang or fail a boot."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from dedupfs.cli import mount_helper, mounting
from dedupfs.core.errors import MountError
from dedupfs.core.types import IoMode

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.service.options import MountOptions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[MountOptions]:
    found: list[MountOptions] = []

    def record(options: MountOptions) -> int:
        found.append(options)
        return 0

    monkeypatch.setattr(mounting, "mount", record)
    monkeypatch.setenv("DEDUPFS_CONFIG", os.devnull)
    return found


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mount.fuse.dedupfs", *arguments])
    with pytest.raises(SystemExit) as caught:
        mount_helper.main()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    "order",
    [
        "{store} {mnt} -o rw,io=passthrough,allow_other,nofail",
        "{store} {mnt} -v -n -s -o rw,io=passthrough -o allow_other -t fuse.dedupfs",
        "-o rw,io=passthrough,allow_other,dev,suid -- {store} {mnt}",
    ],
)
def test_the_ways_mount_calls_its_helper(
    monkeypatch: pytest.MonkeyPatch, asked: list[MountOptions], tmp_path: Path, order: str
) -> None:
    store, mnt = tmp_path / "s", tmp_path / "m"
    assert run(monkeypatch, *order.format(store=store, mnt=mnt).split()) == 0
    (options,) = asked
    assert (options.mountpoint, options.store) == (mnt, store)
    assert options.io is IoMode.PASSTHROUGH
    assert options.allow_other
    assert not options.foreground


def test_a_faked_mount_mounts_nothing(
    monkeypatch: pytest.MonkeyPatch, asked: list[MountOptions]
) -> None:
    assert run(monkeypatch, "/s", "/m", "-f") == 0
    assert asked == []


def test_dash_r_is_read_only(monkeypatch: pytest.MonkeyPatch, asked: list[MountOptions]) -> None:
    assert run(monkeypatch, "-r", "/s", "/m") == 0
    assert asked[0].extra == ("ro",)


@pytest.mark.parametrize(
    "words", [[], ["/s"], ["/s", "/m", "/x"], ["/s", "/m", "-Q"], ["/s", "/m", "-o", "frob"]]
)
def test_wrong_arguments_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(monkeypatch, *words) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_failed_mount_exits_32(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(options: MountOptions) -> int:
        raise MountError(f"{options.mountpoint}: no")

    monkeypatch.setattr(mounting, "mount", refuse)
    assert run(monkeypatch, "/s", "/m") == 32
    assert capsys.readouterr().err == "mount.dedupfs: /m: no\n"
