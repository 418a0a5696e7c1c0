"""Who holds what: accounts of units and folders, made when a command asks, without a pause for others.

A measurement folds the index, so that a snapshot has all that was acknowledged, and walks the
snapshot in a worker thread; one at a time. The accounts of the units are kept until they are asked
for again and old. A measurement that its command no longer asks for is stopped.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from dedupfs.core.errors import DedupfsError
from dedupfs.service.control import BadRequest
from dedupfs.store import accounting, walking
from dedupfs.store.accounting import Accounts
from dedupfs.store.walking import Tables, Walk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from dedupfs.core.types import Ino
    from dedupfs.store.accounting import Account
    from dedupfs.store.index import Index
    from dedupfs.store.txn import Txn
    from dedupfs.store.walking import Place

    Document = dict[str, object]
    Command = Callable[[Mapping[str, object]], Document]
    # What else is known of a unit: "age_s", "pinned", "open_files", "owner".
    Facts = Callable[[Txn, Ino], Document]

log = logging.getLogger(__name__)

UNITS: Final = "units"
DU: Final = "du"
SHARERS: Final = "sharers"
LOOK: Final = "measured"

MAX_AGE_S: Final = 60.0
PARTNERS: Final = 8
PAGE_ROWS: Final = 200
_DEPTH_MAX: Final = 64
_ROWS_MAX: Final = 200
_REPLY_BYTES: Final = 600_000  # a reply has a limit
_WAITING_MAX: Final = 8
_UNWATCHED_S: Final = 10.0
_KEPT_S: Final = 120.0


@dataclass(slots=True)
class _Job:
    """A measurement; `work` makes its result of the tables, in a thread."""

    work: Callable[[Tables], object]
    is_kept: bool = False  # whether or not somebody looks
    walk: Walk = field(default_factory=Walk)
    looked: float = field(default_factory=trio.current_time)
    state: str = "waiting"
    error: str | None = None
    result: object = None
    made: float = 0.0
    took_s: float = 0.0

    def document(self) -> Document:
        return {
            "state": self.state,
            "error": self.error,
            "done": self.walk.done,
            "total": self.walk.total,
        }


@dataclass(frozen=True, slots=True)
class _Du:
    accounts: Accounts
    asked: list[str | None]  # by node - 1: the path as the command gave it


class Measuring:
    """The daemon's measurements; `commands` is what the control socket may ask of it."""

    def __init__(
        self,
        index: Index,
        sync: Callable[[], Awaitable[None]],
        *,
        depth: Callable[[], int] = lambda: 1,
        facts: Facts | None = None,
    ) -> None:
        """`sync` makes all durable, and folds; `depth` is that of the units."""
        self._index = index
        self._sync = sync
        self._depth = depth
        self._facts = facts
        self._units: _Job | None = None  # the newest that is done
        self._next_units: _Job | None = None
        self._jobs: dict[int, _Job] = {}
        self._numbers = itertools.count(1)
        self._send, self._receive = trio.open_memory_channel[_Job](_WAITING_MAX)
        self.commands: Mapping[str, Command] = {
            UNITS: self._answer_units,
            DU: self._start_du,
            SHARERS: self._start_sharers,
            LOOK: self._look,
        }

    async def serve(self) -> None:
        """Measure as it is asked for, until cancelled."""
        async for job in self._receive:
            job.state = "running"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_unwatched, job)
                await self._measure(job)
                nursery.cancel_scope.cancel()

    async def _measure(self, job: _Job) -> None:
        try:
            if self._index.has_changes:
                self._index.fold_soon = True
                await self._sync()
            job.made = trio.current_time()
            job.result = await trio.to_thread.run_sync(_work, self._index, job)
            job.took_s = trio.current_time() - job.made
            job.state = "done"
        except (DedupfsError, OSError) as error:
            job.state, job.error = "failed", str(error)
        except Exception as error:
            # A bug here must not end a mount that others write to.
            log.exception("accounts: bug")
            job.state, job.error = "failed", f"internal error: {error!r}"
        if job is self._next_units:
            self._next_units = None
            self._units = job

    def _begin(self, job: _Job) -> _Job:
        try:
            self._send.send_nowait(job)
        except trio.WouldBlock:
            raise BadRequest("too many measurements wait already: try again later") from None
        return job

    # --- units ---

    def refresh_units(self, max_age_s: float) -> None:
        """Measure the units, unless that was done not longer than `max_age_s` ago."""
        last = self._units
        is_old = last is None or trio.current_time() - last.made > max_age_s
        if is_old and self._next_units is None:
            depth = self._depth()
            self._next_units = self._begin(
                _Job(lambda tables: Accounts(tables, walking.units(tables, depth)), is_kept=True)
            )

    def unit_documents(self, limit: int) -> tuple[list[Document], float]:
        """Return the largest units as of the last measurement, and its age in seconds."""
        last = self._units
        if last is None or not isinstance(last.result, Accounts):
            return [], 0.0
        rows = self._unit_rows(last.result, range(min(limit, len(last.result))), 0)
        return rows, trio.current_time() - last.made

    def _answer_units(self, request: Mapping[str, object]) -> Document:
        offset = _count(request, "offset", 0)
        limit = min(_count(request, "limit", PAGE_ROWS), _ROWS_MAX)
        partners = _count(request, "partners", PARTNERS)
        max_age = request.get("max_age_s", MAX_AGE_S)
        if not isinstance(max_age, int | float):
            raise BadRequest("units: max_age_s: want a number")
        self.refresh_units(float(max_age))
        last, coming = self._units, self._next_units
        document = coming.document() if coming else {"state": "idle", "done": 0, "total": 0}
        document["error"] = last.error if last else None
        accounts = last.result if last and isinstance(last.result, Accounts) else None
        if accounts is None or last is None:
            return {**document, "as_of_s": None, "count": 0, "next": None, "units": []}
        stop = min(offset + limit, len(accounts))
        rows = self._unit_rows(accounts, range(offset, stop), partners)
        following = offset + len(rows)
        return {
            **document,
            "as_of_s": round(trio.current_time() - last.made, 1),
            "took_s": round(last.took_s, 3),
            "count": len(accounts),
            "stored_bytes": accounts.stored_bytes,
            "next": following if following < len(accounts) else None,
            "units": rows,
        }

    def _unit_rows(self, accounts: Accounts, ranks: range, partners: int) -> list[Document]:
        def rows(txn: Txn) -> Iterable[Document]:
            names: dict[int, str | None] = {}

            def name(node: int) -> str | None:
                if node not in names:
                    names[node] = _shown(walking.name_of(txn, accounts[node].place))
                return names[node]

            for node in accounts.largest(ranks.start, ranks.stop):
                account = accounts[node]
                facts = self._facts(txn, account.ino) if self._facts else {}
                yield {
                    "path": name(node),
                    **_figures(account),
                    "shared_with": [
                        {"path": name(other), "bytes": size}
                        for other, size in accounts.partners(node, partners)
                    ],
                    "age_s": None,
                    "pinned": None,
                    "open_files": None,
                    "owner": None,
                    **facts,
                }

        with self._index.read() as txn:
            return _that_fit(rows(txn))

    # --- du ---

    def _start_du(self, request: Mapping[str, object]) -> Document:
        paths, depth = _texts(request, "paths"), _count(request, "depth", 0)
        places = [self._place(path) for path in paths]

        def work(tables: Tables) -> _Du:
            links = walking.below(tables, places, min(depth, _DEPTH_MAX))
            accounts = Accounts(tables, links, together=True)
            given = dict(zip(places, paths, strict=True))
            nodes = range(1, len(accounts) + 1)
            return _Du(accounts, [given.get(accounts[node].place) for node in nodes])

        return self._number(_Job(work))

    def _du_rows(self, found: _Du, offset: int) -> Document:
        """Return the entries from rank `offset`; rank 0 is all that was asked for together."""
        accounts = found.accounts
        stop = min(offset + _ROWS_MAX, len(accounts))
        with self._index.read() as txn:
            rows = _that_fit(
                {
                    "path": _shown(walking.name_of(txn, account.place)),
                    "given": found.asked[account.node - 1],
                    "depth": account.depth - 1,
                    "is_folder": account.is_folder,
                    **_figures(account),
                    "freed_bytes": account.freed_bytes,
                }
                for account in (accounts[rank + 1] for rank in range(offset, stop))
            )
        following = offset + len(rows)
        return {
            "rows": rows,
            "count": len(accounts),
            "next": following if following < len(accounts) else None,
        }

    # --- the files that share with one ---

    def _start_sharers(self, request: Mapping[str, object]) -> Document:
        path, limit = request.get("path"), _count(request, "limit", PARTNERS)
        if not isinstance(path, str):
            raise BadRequest("sharers: path: want a text")
        place = self._place(path)
        with self._index.read() as txn:
            ino = walking.inode_at(txn, place)
        return self._number(_Job(lambda tables: accounting.sharers(tables, ino, limit)))

    def _sharer_rows(self, found: accounting.Sharers) -> Document:
        with self._index.read() as txn:
            rows = _that_fit(
                {
                    "path": None if place is None else _shown(walking.name_of(txn, place)),
                    "bytes": size,
                }
                for place, size in found.files
            )
        return {"rows": rows, "count": found.total_files}

    # --- jobs by number ---

    def _place(self, path: str) -> Place:
        with self._index.read() as txn:
            place = walking.find_place(txn, os.fsencode(path))
        if place is None:
            raise BadRequest(f"{path}: no such file or folder in the mount")
        return place

    def _number(self, job: _Job) -> Document:
        now = trio.current_time()
        self._jobs = {n: old for n, old in self._jobs.items() if now - old.looked < _KEPT_S}
        self._begin(job)
        number = next(self._numbers)
        self._jobs[number] = job
        return {"id": number, **job.document()}

    def _look(self, request: Mapping[str, object]) -> Document:
        job = self._jobs.get(_count(request, "id", 0))
        if job is None:
            raise BadRequest("measured: want the id of a measurement")
        job.looked = trio.current_time()
        document = job.document()
        match job.result:
            case _Du() as found:
                document |= self._du_rows(found, _count(request, "offset", 0))
            case accounting.Sharers() as found:
                document |= self._sharer_rows(found)
            case _:
                pass
        return document


def _work(index: Index, job: _Job) -> object:
    with index.snapshot() as txn:
        tables = Tables.read(txn, job.walk)
    return job.work(tables)


async def _stop_unwatched(job: _Job) -> None:
    """Stop the walk when nobody looks any more, or at the end: a thread cannot be cancelled."""
    try:
        while job.is_kept or trio.current_time() - job.looked < _UNWATCHED_S:  # noqa: ASYNC110 - a clock
            await trio.sleep(1)
    finally:
        job.walk.stop()


def _figures(account: Account) -> Document:
    return {
        "files": account.files,
        "logical_bytes": account.logical_bytes,
        "exclusive_bytes": account.exclusive_bytes,
        "shared_bytes": account.shared_bytes,
    }


def _shown(name: bytes | None) -> str | None:
    return None if name is None else os.fsdecode(name)


def _that_fit(rows: Iterable[Document]) -> list[Document]:
    """Return the first rows, as many as a reply has room for, but one at least."""
    found: list[Document] = []
    room = _REPLY_BYTES
    for row in rows:
        room -= len(json.dumps(row))
        if room < 0 and found:
            break
        found.append(row)
    return found


def _count(request: Mapping[str, object], key: str, default: int) -> int:
    value = request.get(key, default)
    if type(value) is not int or value < 0:
        raise BadRequest(f"{key}: want a number from 0")
    return value


def _texts(request: Mapping[str, object], key: str) -> Sequence[str]:
    value = request.get(key)
    if not isinstance(value, list) or not value or not all(type(one) is str for one in value):
        raise BadRequest(f"{key}: want a list of texts")
    return value
