"""Running fsck on a store: its lock, its marker, then a check, a repair or a new index."""

from __future__ import annotations

import contextlib
import enum
from typing import TYPE_CHECKING

from dedupfs.core.errors import Corrupt, NotAStore, StoreError
from dedupfs.core.format import STORE_FILES
from dedupfs.store import pages
from dedupfs.store.fsck import rebuild
from dedupfs.store.fsck import run as runs
from dedupfs.store.fsck.findings import Problem, Report, no_progress
from dedupfs.store.lock import StoreLock, take
from dedupfs.store.store import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dedupfs.store.fsck.findings import Progress


class Mode(enum.Enum):
    """What to do about problems."""

    CHECK = "check"
    REPAIR = "repair"
    REBUILD = "rebuild"


def run(store: Path, mode: Mode, progress: Progress = no_progress) -> Report:
    """Check, repair or rebuild `store`.

    Raises StoreInUse, NotAStore, StoreTooNew, and StoreError when it cannot be done.
    """
    try:
        _require_store(store)
        with _locked(store, mode):
            return _run(store, mode, progress)
    except OSError as error:
        raise StoreError(f"store {store}: {error.strerror}") from error


@contextlib.contextmanager
def _locked(store: Path, mode: Mode) -> Iterator[None]:
    """Hold the store's lock; for a check without a trace on disk."""
    with contextlib.ExitStack() as stack:
        if mode is not Mode.CHECK:
            stack.callback(StoreLock(store, "dedupfs fsck").release)
        elif (store / STORE_FILES["lock"]).exists():
            file = stack.enter_context((store / STORE_FILES["lock"]).open("rb"))
            if not take(file.fileno()):
                StoreLock(store, "").release()  # raises StoreInUse, which names the holder
        yield


def _run(store: Path, mode: Mode, progress: Progress) -> Report:
    if mode is Mode.REBUILD:
        return rebuild.rebuild(store, progress)
    try:
        with contextlib.suppress(pages.Rotten):
            pages.check_store(store)
        if not (store / STORE_FILES["index"] / "data.mdb").exists():
            return Report()  # made and never used
        return (runs.check if mode is Mode.CHECK else runs.repair)(store, progress)
    except Corrupt as error:
        problem = Problem("index", str(error), is_lasting=True)
        return Report(problems=[problem])


def _require_store(store: Path) -> None:
    if not (store / STORE_FILES["marker"]).is_file():
        raise NotAStore(f"{store} is not a dedupfs store")
    prepare(store)
