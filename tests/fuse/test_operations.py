"""The adapter: whatever goes wrong in a request, the mount must go on."""

from __future__ import annotations

import errno
import inspect
import os
from typing import TYPE_CHECKING, cast

import pyfuse3
import pytest
import trio

from dedupfs.fuse.operations import Handlers, Operations
from dedupfs.vfs.attributes import Attributes
from vfs.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyfuse3 import RequestContext

    from dedupfs.vfs.vfs import Vfs


class Root:
    """The context of a request by root."""

    uid = gid = pid = umask = 0


ROOT = cast("RequestContext", Root())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "store")
    yield made
    made.close()


class Broken:
    """A Vfs in which every call fails."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattr__(self, name: str) -> object:
        def fail(*_args: object, **_kwargs: object) -> object:
            raise self._error

        return fail


def arguments(method: object) -> list[object]:
    count = len(inspect.signature(cast("type", method)).parameters)
    return [ROOT if index == count - 1 else 0 for index in range(count)]


KINDS = [
    name
    for name, method in vars(pyfuse3.Operations).items()
    if inspect.iscoroutinefunction(method) and name not in {"poll", "access"}
]


def test_every_request_that_pyfuse3_knows_has_a_handler() -> None:
    """But poll and access, whose ENOSYS lets the kernel do them itself."""
    assert set(KINDS) <= set(vars(Handlers))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [KeyError("bug"), OSError(errno.ENOSPC, "full")])
async def test_no_exception_but_fuseerror_leaves_a_handler(kind: str, error: Exception) -> None:
    """Anything else would end the mount under its users."""
    operations = Operations(cast("Vfs", Broken(error)), writeback=False)
    method = getattr(operations, kind)
    args = arguments(getattr(pyfuse3.Operations, kind))[1:]
    if kind in {"flush", "release", "fsync", "read", "write", "releasedir", "fsyncdir"}:
        args[0] = 1
    if kind == "setattr":
        args[1:3] = [pyfuse3.EntryAttributes(), pyfuse3.SetattrFields()]
    if kind == "forget":
        await method([(2, 1)])
    else:
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await method(*args)
        assert caught.value.errno == (errno.ENOSPC if isinstance(error, OSError) else errno.EIO)
    assert operations.requests[kind] == 1


async def test_cancelling_passes_through() -> None:
    """The end of the mount must not be answered as a bug."""
    operations = Operations(cast("Vfs", Broken(KeyboardInterrupt())), writeback=False)
    with pytest.raises(KeyboardInterrupt):
        await operations.getattr(1, ROOT)
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_attributes_arrive_whole(world: World) -> None:
    ino = world.create(b"file", b"x" * 1000)
    operations = Operations(world.vfs, writeback=False)
    seen = await operations.getattr(ino, ROOT)
    inode = world.vfs.getattr(ino).inode
    assert (seen.st_ino, seen.st_mode, seen.st_nlink) == (ino, inode.mode, 1)
    assert (seen.st_uid, seen.st_gid, seen.st_size, seen.st_blocks) == (1000, 100, 1000, 2)
    assert seen.st_mtime_ns == inode.mtime_ns
    assert seen.attr_timeout == seen.entry_timeout > 3600


async def test_times_before_1970_arrive_whole(world: World) -> None:
    ino = world.create(b"file")
    attributes = world.vfs.getattr(ino)
    attributes.inode.mtime_ns = -1_500_000_001
    from dedupfs.fuse.attributes import entry  # noqa: PLC0415

    seen = entry(Attributes(ino, attributes.inode, 0))
    assert seen.st_mtime_ns == -1_500_000_001


async def test_a_missing_name_is_an_answer_to_remember(world: World) -> None:
    operations = Operations(world.vfs, writeback=False)
    seen = await operations.lookup(1, b"none", ROOT)
    assert seen.st_ino == 0
    assert seen.entry_timeout > 3600


async def test_unknown_rename_flags_are_refused(world: World) -> None:
    world.create(b"file")
    operations = Operations(world.vfs, writeback=False)
    whiteout = 4
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.rename(1, b"file", 1, b"other", whiteout, ROOT)
    assert caught.value.errno == errno.EINVAL
    await operations.rename(1, b"file", 1, b"other", pyfuse3.RENAME_NOREPLACE, ROOT)
    assert world.names() == [b"other"]


async def test_statfs_arrives_whole(world: World) -> None:
    seen = await Operations(world.vfs, writeback=False).statfs(ROOT)
    host = os.statvfs(world.path)
    assert (seen.f_bsize, seen.f_frsize, seen.f_namemax) == (4096, 4096, 255)
    assert seen.f_blocks > seen.f_bfree == seen.f_bavail
    assert abs(seen.f_bavail * 4096 - host.f_bavail * host.f_frsize) < 1 << 30


async def test_what_a_link_answers_is_not_kept_as_the_attributes(world: World) -> None:
    # The kernel takes them whatever came meanwhile: with a growing file the new end would be hidden.
    handlers = Handlers(world.vfs, writeback=False)
    ino = world.create(b"file")
    made = await handlers.link(ino, pyfuse3.ROOT_INODE, b"second", ROOT)
    assert made.st_nlink == 2
    assert made.attr_timeout == 0
    assert made.entry_timeout > 0
    assert (await handlers.getattr(ino, ROOT)).attr_timeout > 0
