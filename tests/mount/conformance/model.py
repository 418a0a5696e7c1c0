"""The words of the conformance suite: who calls, one call, one case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

Argument: TypeAlias = int | str | bytes | None


@dataclass(frozen=True)
class Who:
    """A user: effective and real ids alike, and the supplementary groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


TEAM_GID: Final = 64100
ROOT: Final = Who("root", 0, 0)
ALICE: Final = Who("alice", 64001, 64001, (TEAM_GID,))
BOB: Final = Who("bob", 64002, 64002)
NOBODY: Final = Who("nobody", 65534, 65534)
EVERYONE: Final = (ROOT, ALICE, BOB, NOBODY)

# Calls that end with mode bits or open flags, to be shown in octal.
_MODE_LAST: Final = frozenset(
    {"put", "dir", "mkdir", "mkfifo", "chmod", "fchmod", "open", "reopen"}
)


@dataclass(frozen=True)
class Step:
    """One call of `calls.CALLS`, in the case's own folder, as `who`."""

    call: str
    args: tuple[Argument, ...]
    who: Who = ROOT
    umask: int = 0

    def __str__(self) -> str:
        """Return the call as one would write it."""
        octal = len(self.args) - 1 if self.call in _MODE_LAST else -1
        words = enumerate(self.args)
        shown = ", ".join(f"{word:#o}" if at == octal and isinstance(word, int) else _shown(word)
                          for at, word in words)  # fmt: skip
        user = "" if self.who is ROOT else f" as {self.who.name}"
        mask = f" with umask {self.umask:#o}" if self.umask else ""
        return f"{self.call}({shown}){user}{mask}"


@dataclass(frozen=True)
class Case:
    """`setup` is taken for granted; each step of `act` is compared, with what it changed."""

    name: str
    setup: tuple[Step, ...]
    act: tuple[Step, ...]


def do(call: str, *args: Argument, who: Who = ROOT, umask: int = 0) -> Step:
    """Return a step."""
    return Step(call, args, who, umask)


def _shown(argument: Argument) -> str:
    text = repr(argument)
    return text if len(text) <= 60 else f"{text[:30]}...{text[-10:]}({len(text) - 2})"
