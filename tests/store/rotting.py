"""Run as a program: damages copies of a store with each of the given seeds, and opens them.

A process of its own, because what must not happen is that it dies of a signal. One JSON line a seed.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import sys
from pathlib import Path

from dedupfs.core.errors import DedupfsError
from store.broken import BIG, CONTENT, check, contents, end, rebuild, repair
from vfs.world import World

WANTED = CONTENT | {b"d/hard": CONTENT[b"small"]}


def main(source: Path, what: str, first: int, last: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    for seed in range(first, last):
        chosen = random.Random(seed)
        path = source.parent / f"rotten-{what}-{first}"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source, path, symlinks=True)
        flip(next(path.glob(what)), chosen)
        print(json.dumps({"seed": seed} | outcome(path)), flush=True)


def flip(file: Path, chosen: random.Random) -> None:
    raw = bytearray(file.read_bytes())
    for _ in range(chosen.choice([1, 1, 8, 100])):
        raw[chosen.randrange(len(raw))] ^= 1 << chosen.randrange(8)
    if chosen.random() < 0.2:
        at = chosen.randrange(len(raw))
        raw[at : at + 4096] = chosen.randbytes(len(raw[at : at + 4096]))
    file.write_bytes(raw)


def outcome(path: Path) -> dict[str, object]:
    """Return what a mount says, and what fsck makes of it."""
    found: dict[str, object] = {}
    try:
        found["mount"] = "right" if contents(path) == WANTED else "wrong"
    except DedupfsError as error:
        found["mount"] = "refused"
        found["lines"] = len(str(error).splitlines())
    try:
        check(path)
        if found["mount"] == "refused":
            if repair(path).left:
                rebuild(path)
            found["clean"] = not check(path).problems
            after = contents(path)
            found["kept"] = sum(after.get(name) == data for name, data in WANTED.items())
        world = World(path)
        world.create(b"after", BIG)
        end(world)
    except DedupfsError as error:
        found["failed"] = str(error)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
