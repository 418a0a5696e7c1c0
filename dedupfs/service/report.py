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


def of_path(path: Path) -> dict[str, object]:
    """Return the status of `path`: a dedupfs mount, a store, or a mount point with its store.

    Raises MountError when it is none of them, or when its daemon or index cannot be asked.
    """
    resolved = mounts.resolve(path)
    mount = mounts.mount_at(resolved)
    if mount is not None and mount.is_dedupfs:
        return of_store(mount.store)
    for store in (resolved, default_store(resolved)):
        if is_store(store):
            return of_store(store)
    raise MountError(
        f"{path} is neither a dedupfs mount nor a store, and {default_store(resolved)} "
        "is no store: name it with --store DIR"
    )


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
                documents.append(of_store(mount.store))
            except DedupfsError as error:
                problems.append(f"{mount.path}: {error}")
    return documents, problems


def is_store(path: Path) -> bool:
    """Return whether the folder has the marker of a store."""
    return (path / STORE_FILES["marker"]).is_file()


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
