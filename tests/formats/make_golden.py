"""Writes `store-N.tar.gz`, a store of the format this version writes, to be opened for ever.

Run once for each format version, by the version that brings it: `python tests/formats/make_golden.py`.
The archive holds a store closed in order, `closed`, and one of a killed process, `killed`, with its
journal. An archive of a released version is never made anew.
"""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

# Large enough for a segment of its own, and small when packed.
BIG = b"".join(b"%06d " % (number * number % 9973) for number in range(45_000))
CONTENT = {
    b"small": b"a few bytes",
    b"twice": b"a few bytes",
    b"empty": b"",
    b"big": BIG,
    b"d/shifted": b"head" * 2000 + BIG,
    b"d/e/holes": b"x" * 5000 + bytes(100_000) + b"y" * 5000,
    "d/\N{SNOWMAN}".encode(): b"a name",
}
YOUNGER = {b"younger": b"in the journal only" * 100}


def make(path: Path, *, is_killed: bool) -> None:
    from dedupfs.core.types import ROOT_INO  # noqa: PLC0415 - after the path is set
    from store.broken import end, kill  # noqa: PLC0415
    from vfs.world import USER, World  # noqa: PLC0415

    world = World(path)
    folder = world.mkdir(b"d")
    folders = {b"": ROOT_INO, b"d": folder, b"d/e": world.mkdir(b"e", folder)}
    for name, data in CONTENT.items():
        above, _, last = name.rpartition(b"/")
        world.create(last, data, folders[above])
    world.vfs.symlink(ROOT_INO, b"link", b"d/e/holes", USER)
    world.vfs.link(world.look(b"small").ino, folder, b"hard")
    world.vfs.setxattr(world.look(b"big").ino, b"user.name", b"value")
    world.create(b"removed", b"r" * 100_000)
    world.vfs.unlink(ROOT_INO, b"removed")
    end(world)
    if is_killed:
        world = World(path)
        for name, data in YOUNGER.items():
            world.create(name, data)
        checkpoint = world.store.begin_checkpoint()
        assert checkpoint is not None
        checkpoint.write()  # it is opened on another machine: only this is sure to be there
        kill(world)


def main() -> None:
    from dedupfs.core.format import FORMAT_VERSION  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        for name in ("closed", "killed"):
            make(Path(folder) / name, is_killed=name == "killed")
        os.truncate(next(Path(folder).glob("killed/index/journal-*")), 64 << 10)
        target = HERE / f"store-{FORMAT_VERSION}.tar.gz"
        with tarfile.open(target, "w:gz") as archive:
            archive.add(folder, arcname=".")
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
