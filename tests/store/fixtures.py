"""The types of the fixtures in conftest.py, and writers that place windows later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import random

    from dedupfs.core.types import Ino
    from dedupfs.store.store import Store
    from dedupfs.store.writer import Writer


class Write(Protocol):
    def __call__(self, ino: int, data: bytes, step: int = ..., offset: int = ...) -> None:
        """Write a whole file and close it."""


class Read(Protocol):
    def __call__(self, ino: int, size: int) -> bytes:
        """Return a file's bytes from the start, holes as zeros."""


class Later:
    """Settles writers as the file system does between requests: soon, or not before the next."""

    def __init__(self, chance: random.Random | None) -> None:
        """Without `chance`, writers place full windows themselves."""
        self._chance = chance
        self._due: list[Writer] = []

    def writer(self, store: Store, ino: Ino) -> Writer:
        if self._chance is None:
            return store.writer(ino, _ignore)
        made: Writer = store.writer(ino, _ignore, lambda: self._due.append(made))
        return made

    def between_requests(self) -> None:
        while self._due and self._chance is not None and self._chance.random() < 0.7:
            self._due.pop(self._chance.randrange(len(self._due))).settle()


def _ignore(_txn: object, _delta: int) -> None:
    pass
