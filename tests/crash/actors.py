"""Actors on a mounted file system: run as a program, until the file system goes away.

`actors.py ROOT LOGS SEED COUNT`: actor N works in ROOT/SEED-N. LOGS/N gets a byte before and one
behind each system call, and the reason when one fails.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from crash.acts import Act, Script

if TYPE_CHECKING:
    from collections.abc import Callable

BEGUN, DONE, FAILED = b"(", b")", b"!"


class Actor:
    """Plays a script against a real directory."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._fds: dict[int, int] = {}

    def play(self, act: Act) -> None:
        """Do one act. Raises OSError."""
        _PLAYS[act.kind](self, act)

    def at(self, path: str) -> str:
        return self._root + path

    def create(self, act: Act) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._fds[act.handle] = os.open(self.at(act.path), flags, 0o600)

    def open(self, act: Act) -> None:
        self._fds[act.handle] = os.open(self.at(act.path), os.O_RDWR)

    def write(self, act: Act) -> None:
        done = os.pwrite(self._fds[act.handle], act.data, act.number)
        if done != len(act.data):
            raise RuntimeError(f"wrote {done} of {len(act.data)}")

    def close(self, act: Act) -> None:
        os.close(self._fds.pop(act.handle))

    def fsync(self, act: Act) -> None:
        os.fsync(self._fds[act.handle])

    def fsyncdir(self, act: Act) -> None:
        fd = os.open(self.at(act.path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


_PLAYS: dict[str, Callable[[Actor, Act], None]] = {
    "create": Actor.create,
    "open": Actor.open,
    "write": Actor.write,
    "close": Actor.close,
    "fsync": Actor.fsync,
    "fsyncdir": Actor.fsyncdir,
    "rename": lambda actor, act: os.rename(actor.at(act.path), actor.at(act.other)),
    "unlink": lambda actor, act: os.unlink(actor.at(act.path)),
    "rmdir": lambda actor, act: os.rmdir(actor.at(act.path)),
    "link": lambda actor, act: os.link(actor.at(act.path), actor.at(act.other)),
    "symlink": lambda actor, act: os.symlink(act.other, actor.at(act.path)),
    "mkdir": lambda actor, act: os.mkdir(actor.at(act.path), act.number),
    "truncate": lambda actor, act: os.truncate(actor.at(act.path), act.number),
    "setxattr": lambda actor, act: os.setxattr(actor.at(act.path), act.other, act.data),
    "removexattr": lambda actor, act: os.removexattr(actor.at(act.path), act.other),
    "chmod": lambda actor, act: os.chmod(actor.at(act.path), act.number),
    "utime": lambda actor, act: os.utime(actor.at(act.path), ns=(act.number, act.number)),
}


def run(root: Path, log_path: Path, seed: str) -> None:
    """Play the script of `seed` until something fails."""
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    script, actor = Script(seed), Actor(root / seed)
    try:
        while True:
            act = script.next()
            os.write(log, BEGUN)
            actor.play(act)
            os.write(log, DONE)
            script.apply(act)
    except (OSError, RuntimeError) as error:
        os.write(log, FAILED + f"{time.monotonic_ns()} {act.kind} {error!r}".encode())


def main() -> None:
    root, logs, seed, count = sys.argv[1:]
    os.umask(0)
    children = []
    for number in range(int(count)):
        child = os.fork()
        if child == 0:
            try:
                run(Path(root), Path(logs) / str(number), f"{seed}-{number}")
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
