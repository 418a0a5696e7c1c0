"""Finding the status of a mount or store from outside: live from its daemon, or from the index."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from dedupfs.core.errors import DedupfsError, MountError, StoreError, StoreInUse
from dedupfs.core.format import STORE_FILES, Counters
from dedupfs.service import client, mounts, status
from dedupfs.service.preflight import default_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dedupfs.service.mounts import Mount


def of_path(path: Path) -> dict[str, object]:
    """Return the status of `path`: a dedupfs mount, a store, or a mount point with its store.

    Raises MountError when it is none of them, or when its daemon or index cannot be asked.
    """
    store = store_of(path)
    if store is None:
        raise MountError(
            f"{path} is neither a dedupfs mount nor a store, and "
            f"{default_store(mounts.resolve(path))} is no store: name it with --store DIR"
        )
    return _marked_if_dead(of_store(store), mounts.mount_at(mounts.resolve(path)))


def store_of(path: Path) -> Path | None:
    """Return the store of `path`: a dedupfs mount, a store, or a mount point with its store."""
    resolved = mounts.resolve(path)
    mount = mounts.mount_at(resolved)
    if mount is not None and mount.is_dedupfs:
        return mount.store
    return next(filter(is_store, (resolved, default_store(resolved))), None)


def of_store(store: Path) -> dict[str, object]:
    """Return the status of a store; raises MountError, or ControlError when the daemon is mute."""
    resolved = mounts.resolve(store)
    if not is_store(resolved):
        raise MountError(f"{store} is not a dedupfs store")
    return client.ask(resolved, "status") or _from_index(resolved)


def of_all() -> tuple[list[dict[str, object]], list[str]]:
    """Return the status of every dedupfs mount there is, and a line for each that has none."""
    documents, problems = [], []
    for mount in mounts.mounts():
        if mount.is_dedupfs:
            try:
                documents.append(_marked_if_dead(of_store(mount.store), mount))
            except DedupfsError as error:
                problems.append(f"{mount.path}: {error}")
    return documents, problems


def _marked_if_dead(document: dict[str, object], mount: Mount | None) -> dict[str, object]:
    if mount is not None and mount.is_dedupfs and document["pid"] is None:
        return {**document, "dead_mount": str(mount.path)}
    return document


def is_store(path: Path) -> bool:
    """Return whether the folder has the marker of a store; raises MountError if it is another's."""
    try:
        return (path / STORE_FILES["marker"]).is_file()
    except PermissionError:
        raise MountError(client.not_yours(path)) from None


def _from_index(store: Path) -> dict[str, object]:
    from dedupfs.store.environment import peek  # noqa: PLC0415 - a live daemon makes LMDB unnecessary

    index = store / STORE_FILES["index"]
    try:
        with _unused(store):
            counters, index_bytes = peek(index) if any(index.glob("*.mdb")) else (Counters(), 0)
    except OSError as error:
        raise StoreError(f"store {store}: {error.strerror}") from None
    return status.document(counters, store=store, index_bytes=index_bytes, live=None)


@contextlib.contextmanager
def _unused(store: Path) -> Iterator[None]:
    # Shared, so that two looks do not meet; a daemon that starts meanwhile tries again.
    try:
        fd = os.open(store / STORE_FILES["lock"], os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreInUse(
            f"store {store} is in use by a process that does not answer: it starts or ends, "
            "try again"
        ) from None
    finally:
        os.close(fd)
