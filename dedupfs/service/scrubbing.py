"""Running a scrub: inside the daemon at a command's wish, or over a store that nobody has mounted.

The daemon's side never disturbs requests for long: rows are read between two of them, bytes in a
worker thread. A scrub whose command no longer asks how it goes stops by itself, and goes on where
it was with the next one.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Self

import trio

from dedupfs.core.chunking import CHUNK_MAX_BYTES
from dedupfs.core.errors import DedupfsError, MountError
from dedupfs.service import client, report
from dedupfs.service.control import BadRequest
from dedupfs.store import affected
from dedupfs.store.scrub import BATCH_BYTES
from dedupfs.store.store import Store
from dedupfs.vfs.eviction import in_steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from dedupfs.core.types import Ino
    from dedupfs.store.affected import DamagedFile
    from dedupfs.store.scrub import Progress

    Document = dict[str, object]
    Forget = Callable[[Ino], Awaitable[None]]


log = logging.getLogger(__name__)

START: Final = "scrub-start"
LOOK: Final = "scrub"
STOP: Final = "scrub-stop"

_UNWATCHED_S: Final = 30.0
_LOOK_INTERVAL_S: Final = 0.2
_BATCHES_A_SECOND: Final = 4  # under a rate limit
_LISTED_BYTES: Final = 600_000  # of the files' JSON: a reply has a limit


@dataclass(frozen=True, slots=True)
class Request:
    """How to scrub."""

    rate_bytes: int | None = None  # a second
    restart: bool = False

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> Self:
        """Return what a command sent; raise BadRequest."""
        rate, restart = raw.get("rate_bytes"), raw.get("restart")
        if not (rate is None or (type(rate) is int and rate > 0)):
            raise BadRequest("scrub: rate_bytes: want a number above 0, or null")
        if type(restart) is not bool:
            raise BadRequest("scrub: restart: want true or false")
        return cls(rate, restart)


class _Run:
    """One scrub: its state as the document that commands get."""

    def __init__(self, store: Store, request: Request) -> None:
        self._store = store
        self._rate_bytes = request.rate_bytes
        self._scrub = store.scrub(restart=request.restart)
        self._state = "running"
        self._error: str | None = None
        self._files: list[DamagedFile] = []

    async def run(self, tick: Callable[[], None]) -> list[DamagedFile]:
        """Read all, with a `tick` now and then; return the damaged files. Raises NoSpace, OSError."""
        budget = BATCH_BYTES
        if self._rate_bytes:
            budget = min(budget, max(CHUNK_MAX_BYTES, self._rate_bytes // _BATCHES_A_SECOND))
        while (batch := self._scrub.take(budget)) is not None:
            started = trio.current_time()
            with batch:
                await trio.to_thread.run_sync(batch.read)
            self._scrub.put(batch)
            due = batch.size_bytes / self._rate_bytes if self._rate_bytes else 0.0
            tick()
            await trio.sleep(max(0.0, started + due - trio.current_time()))
        self._files = await in_steps(affected.files(self._store.index))
        self._scrub.finish()
        self._state = "done"
        return self._files

    def ended(self, state: str, error: str | None = None) -> None:
        """Note why it ended early."""
        self._state, self._error = state, error

    def document(self) -> Document:
        """Return how it goes, or went; sizes in bytes."""
        progress: Progress = self._scrub.progress
        return {
            "state": self._state,
            "error": self._error,
            "resumed": self._scrub.was_resumed,
            "total_bytes": progress.total_bytes,
            "done_bytes": progress.done_bytes,
            "chunks": progress.chunks,
            "checked_bytes": progress.checked_bytes,
            "unchecked_bytes": progress.unchecked_bytes,
            "damaged_bytes": self._store.index.counters.damaged_bytes,
            "damaged_files": len(self._files),
            "files": _listed(self._files),
        }


class Scrubbing:
    """The daemon's scrub, one at a time; `commands` is what the control socket may ask of it."""

    def __init__(self, store: Store, forget: Forget) -> None:
        """`forget` makes the kernel drop what it has cached of a file."""
        self._store = store
        self._forget = forget
        self._asked = trio.Event()
        self._run: _Run | None = None
        self._scope = trio.CancelScope()
        self._last_look = 0.0
        self.commands: Mapping[str, Callable[[Mapping[str, object]], Document]] = {
            START: self._start,
            LOOK: lambda _request: self._look(),
            STOP: lambda _request: self._stop(),
        }

    async def serve(self) -> None:
        """Run scrubs as they are asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            assert self._run is not None, "set before it is asked for"
            run = self._run
            with self._scope:
                await self._scrub(run)
            if self._scope.cancelled_caught:
                run.ended("stopped")
            log.info("scrub: %s", json.dumps({**run.document(), "files": None}))

    async def _scrub(self, run: _Run) -> None:
        try:
            for file in await run.run(self._end_unwatched):
                log.error("scrub: %s", _line(file))
                await self._forget(file.ino)
        except (DedupfsError, OSError) as error:
            run.ended("failed", str(error))
        except Exception as error:
            # A bug here must not end a mount that others write to.
            log.exception("scrub: bug")
            run.ended("failed", f"internal error: {error!r}")

    def _end_unwatched(self) -> None:
        if trio.current_time() > self._last_look + _UNWATCHED_S:
            self._scope.cancel()

    def _start(self, request: Mapping[str, object]) -> Document:
        if self._run is None or self._run.document()["state"] != "running":
            self._run = _Run(self._store, Request.parse(request))
            self._scope = trio.CancelScope()
            self._asked.set()
        return self._look()

    def _look(self) -> Document:
        if self._run is None:
            raise BadRequest("scrub: none was started")
        self._last_look = trio.current_time()
        return self._run.document()

    def _stop(self) -> Document:
        self._scope.cancel()
        return self._look()


def scrub(path: Path, request: Request, show: Callable[[Document], None]) -> Document:
    """Scrub a mount or a store to its end; `show` gets the state now and then.

    Returns the last state. KeyboardInterrupt stops it, to be resumed. Raises DedupfsError.
    """
    store = _store_of(path)
    document = client.ask(store, START, asdict(request))
    if document is None:
        return _scrub_unmounted(store, request, show)
    return trio.run(_follow, store, document, show)


async def _follow(store: Path, document: Document, show: Callable[[Document], None]) -> Document:
    try:
        while document["state"] == "running":
            show(document)
            await trio.sleep(_LOOK_INTERVAL_S)
            document = _ask(store, LOOK)
    except KeyboardInterrupt:
        _ask(store, STOP)
        raise
    return document


def _ask(store: Path, operation: str) -> Document:
    document = client.ask(store, operation)
    if document is None:
        raise MountError("the mount has ended: run the command again, it goes on where it was")
    return document


def _scrub_unmounted(path: Path, request: Request, show: Callable[[Document], None]) -> Document:
    with closing(Store.open(path, holder="dedupfs scrub")) as store:
        run = _Run(store, request)
        trio.run(run.run, lambda: show(run.document()))
        return run.document()


def _store_of(path: Path) -> Path:
    store = report.store_of(path)
    if store is None:
        raise MountError(f"{path} is neither a dedupfs mount nor a store")
    return store


def _listed(files: list[DamagedFile]) -> list[Document]:
    listed: list[Document] = []
    room = _LISTED_BYTES
    for file in files:
        entry: Document = {
            "inode": file.ino,
            "damaged_bytes": file.damaged_bytes,
            "paths": [os.fsdecode(path) for path in file.paths],
        }
        room -= len(json.dumps(entry))
        if room < 0:
            break
        listed.append(entry)
    return listed


def _line(file: DamagedFile) -> str:
    where = ", ".join(repr(os.fsdecode(path)) for path in file.paths) or "an unlinked open file"
    return f"{file.damaged_bytes} bytes are damaged in inode {file.ino}: {where}"
