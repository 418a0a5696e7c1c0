"""Busy or only looked at: a stat(2) of somebody must not make `dedupfs umount` fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.service import busy, mounts, unmounting
from dedupfs.service.busy import Holder

if TYPE_CHECKING:
    from collections.abc import Callable

MOUNT = mounts.Mount(1, 2, 3, Path("/mnt"), mounts.FS_TYPE, "/s")


@pytest.fixture
def busy_for(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """Make the kernel say busy so many times, by processes that can be seen or not."""

    def arrange(times: int, *holders: Holder) -> list[Path]:
        tries: list[Path] = []

        def unmount(path: Path) -> None:
            tries.append(path)
            if len(tries) <= times:
                raise mounts.Busy(f"{path} is busy")

        monkeypatch.setattr(mounts, "unmount", unmount)
        monkeypatch.setattr(busy, "holders", lambda _mount: (list(holders), True))
        monkeypatch.setattr(busy, "nested_mounts", lambda _mount: [])
        monkeypatch.setattr(unmounting, "_PASSING_S", 0.2)
        return tries

    return arrange


def test_a_passing_look_is_waited_for(busy_for: Callable[..., list[Path]]) -> None:
    tries = busy_for(2)
    unmounting._unmount(MOUNT)
    assert len(tries) == 3


def test_a_process_that_stays_is_named_at_once(busy_for: Callable[..., list[Path]]) -> None:
    tries = busy_for(99, Holder(7, "sleep", ["working directory /mnt"]))
    with pytest.raises(mounts.Busy, match=r"pid 7 \(sleep\)"):
        unmounting._unmount(MOUNT)
    assert len(tries) == 1


def test_what_stays_busy_unseen_is_not_waited_for_for_ever(
    busy_for: Callable[..., list[Path]],
) -> None:
    busy_for(999)
    with pytest.raises(mounts.Busy, match="no process found"):
        unmounting._unmount(MOUNT)
