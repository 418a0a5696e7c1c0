"""Stores to be damaged: made with known files, changed behind dedupfs's back, looked at again."""

from __future__ import annotations

import contextlib
import random
import stat
from typing import TYPE_CHECKING

from dedupfs.core.errors import Damaged
from dedupfs.core.types import ROOT_INO, Ino
from dedupfs.store import offline
from dedupfs.store.fsck import session
from vfs.world import USER, World

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dedupfs.store.fsck.findings import Report
    from dedupfs.store.txn import Txn

_READ_MAX_BYTES = 8 << 20  # a damaged size is no reason to run out of memory
BIG = random.Random(1).randbytes(700_000)
CONTENT = {
    b"small": b"a few bytes",
    b"big": BIG,
    b"shifted": b"head" * 2000 + BIG,
    b"d/same": BIG,
    b"d/e/holes": b"x" * 5000 + bytes(100_000) + b"y" * 5000,
    b"d/e/own": random.Random(2).randbytes(400_000),
    b"empty": b"",
}


def make(path: Path) -> None:
    """Make a store with CONTENT, a symlink, a hard link and an attribute; close it in order."""
    world = World(path)
    folder = world.mkdir(b"d")
    folders = {b"": ROOT_INO, b"d": folder, b"d/e": world.mkdir(b"e", folder)}
    for name, data in CONTENT.items():
        above, _, last = name.rpartition(b"/")
        ino = world.create(last, data, folders[above])
        world.vfs.setxattr(ino, b"user.name", name)
    world.vfs.symlink(ROOT_INO, b"link", b"d/same", USER)
    world.vfs.link(world.look(b"small").ino, folder, b"hard")
    end(world)


def end(world: World) -> None:
    """Close without looking whether all is well."""
    world.vfs.close()
    world.store.close()


def kill(world: World) -> None:
    """End as kill -9 does."""
    world.store.index.close()
    world.store._lock.release()


@contextlib.contextmanager
def edited(path: Path) -> Iterator[Txn]:
    """Change rows of the index."""
    with offline.opened(path / "index") as index:
        yield index.txn
        index.commit()


def contents(path: Path) -> dict[bytes, bytes | None]:
    """Return path and bytes of every regular file; None for what reads as an error."""
    world = World(path)
    found: dict[bytes, bytes | None] = {}
    _walk(world, ROOT_INO, b"", found)
    end(world)
    return found


def _walk(world: World, ino: Ino, above: bytes, found: dict[bytes, bytes | None]) -> None:
    for name in world.names(ino):
        attributes = world.look(name, ino)
        mode = attributes.inode.mode
        if stat.S_ISDIR(mode):
            _walk(world, attributes.ino, above + name + b"/", found)
        elif stat.S_ISREG(mode):
            found[above + name] = _read(world, attributes.ino, attributes.inode.size)


def _read(world: World, ino: Ino, size: int) -> bytes | None:
    try:
        plan = world.store.read(ino, 0, min(size, _READ_MAX_BYTES))
        with plan:
            return bytes(plan.run())
    except Damaged:
        return None


def check(path: Path) -> Report:
    return session.run(path, session.Mode.CHECK)


def repair(path: Path) -> Report:
    return session.run(path, session.Mode.REPAIR)


def rebuild(path: Path) -> Report:
    return session.run(path, session.Mode.REBUILD)


def kinds(report: Report) -> set[str]:
    return {problem.kind for problem in report.problems}


def segment_files(path: Path) -> list[Path]:
    """Return the segment files, the largest first."""
    return sorted((path / "segments").iterdir(), key=lambda file: -file.stat().st_size)
