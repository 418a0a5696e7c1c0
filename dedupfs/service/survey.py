"""The commands' side of `service.measuring`: ask for accounts, wait for them, put the pages together."""

from __future__ import annotations

import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.errors import MountError
from dedupfs.service import client, mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Document = dict[str, object]
    # Is told how many rows of how many are read.
    Show = Callable[[int, int], None]

_LOOK_INTERVAL_S: Final = 0.05
_PAGE_ROWS: Final = 200
_FRESH_S: Final = 2.0


class Inside(NamedTuple):
    """A path within a mount."""

    mount: mounts.Mount
    path: str  # from its root, without a leading slash


def inside(path: Path) -> Inside:
    """Return where `path` lies; a symlink to a file is not followed. Raises MountError."""
    resolved = mounts.resolve(path)
    if not resolved.is_dir():
        resolved = mounts.resolve(path.absolute().parent) / path.name
    found = [one for one in mounts.mounts() if resolved.is_relative_to(one.path)]
    mount = max(found, key=lambda one: len(one.path.parts), default=None)
    if mount is None or not mount.is_dedupfs:
        raise MountError(f"{path} is not inside a dedupfs mount")
    mounts.check_alive(mount)
    relative = resolved.relative_to(mount.path)
    return Inside(mount, "" if relative == Path() else str(relative))


def only_mount(path: Path | None) -> mounts.Mount:
    """Return the dedupfs mount at `path`, without one the only there is. Raises MountError."""
    if path is not None:
        mount = mounts.mount_at(mounts.resolve(path))
        if mount is None or not mount.is_dedupfs:
            raise MountError(f"{path} is not a dedupfs mount")
        mounts.check_alive(mount)
        return mount
    found = [one for one in mounts.mounts() if one.is_dedupfs]
    if not found:
        raise MountError("nothing is mounted")
    if len(found) > 1:
        raise MountError(f"which mount? {', '.join(str(one.path) for one in found)}")
    return found[0]


def units(
    store: Path,
    *,
    limit: int | None = None,
    partners: int = 8,
    wait_s: float | None = None,
    show: Show = lambda _done, _total: None,
) -> Document:
    """Return the accounts of the `limit` largest units, all without one.

    New ones are waited for, unless there are older ones and it takes longer than `wait_s`.
    Raises MountError, ControlError.
    """
    request: Document = {
        "partners": partners,
        "limit": min(limit or _PAGE_ROWS, _PAGE_ROWS),
    }
    started = time.monotonic()
    while True:
        # Made since shortly before the start: however long it takes, once is enough.
        request["max_age_s"] = _FRESH_S + time.monotonic() - started
        document = _ask(store, "units", request)
        is_old = document["state"] != "idle"
        can_wait = wait_s is None or time.monotonic() - started < wait_s
        if not is_old or (document["as_of_s"] is not None and not can_wait):
            break
        show(_number(document, "done"), _number(document, "total"))
        select.select((), (), (), _LOOK_INTERVAL_S)
    if document["as_of_s"] is None:
        raise MountError(f"accounts of the units: {document['error'] or 'none were made'}")
    rows = _rows(document, "units")
    # All pages of one measurement: what is asked for now does not start another one.
    request["max_age_s"] = 1e9
    while document["next"] is not None and (limit is None or len(rows) < limit):
        show(len(rows), _number(document, "count"))
        document = _ask(store, "units", {**request, "offset": len(rows)})
        rows += _rows(document, "units")
    document["units"] = rows[:limit]
    return document


def du(
    store: Path, paths: Sequence[str], *, depth: int, show: Show = lambda _done, _total: None
) -> list[Document]:
    """Return the accounts of `paths` of one mount, the first of all of them together.

    Raises MountError, ControlError.
    """
    started = _ask(store, "du", {"paths": list(paths), "depth": depth})
    document = _finished(store, started, show)
    rows = _rows(document, "rows")
    while document["next"] is not None:
        show(len(rows), _number(document, "count"))
        document = _ask(store, "measured", {"id": started["id"], "offset": len(rows)})
        rows += _rows(document, "rows")
    return rows


def sharers(
    store: Path, path: str, *, limit: int, show: Show = lambda _done, _total: None
) -> Document:
    """Return the files that share most with that at `path`: "rows", and "count" of all.

    Raises MountError, ControlError.
    """
    return _finished(store, _ask(store, "sharers", {"path": path, "limit": limit}), show)


def stat(store: Path, path: str) -> Document:
    """Return what is known of the file at `path`. Raises MountError, ControlError."""
    return _ask(store, "stat", {"path": path})


def history(store: Path) -> tuple[list[str], list[list[int]]]:
    """Return space over time: columns, and rows by time. Raises MountError, ControlError."""
    document = _ask(store, "history", {})
    columns, rows = document["columns"], document["rows"]
    if not isinstance(columns, list) or not isinstance(rows, list):
        raise MountError(f"the daemon of {store} gave no proper history")
    return columns, rows


def _finished(store: Path, document: Document, show: Show) -> Document:
    request = {"id": document["id"]}
    while document["state"] in {"waiting", "running"}:
        show(_number(document, "done"), _number(document, "total"))
        select.select((), (), (), _LOOK_INTERVAL_S)
        document = _ask(store, "measured", request)
    if document["state"] == "failed":
        raise MountError(f"accounts: {document['error']}")
    return document


def _ask(store: Path, operation: str, request: Mapping[str, object]) -> Document:
    document = client.ask(store, operation, request)
    if document is None:
        raise MountError(f"store {store} is not mounted: accounts are made by the mount's daemon")
    return document


def _number(document: Document, key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0


def _rows(document: Document, key: str) -> list[Document]:
    rows = document.get(key)
    return list(rows) if isinstance(rows, list) else []
