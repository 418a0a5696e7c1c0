"""Writing what a store holds into a plain folder: copied, put on disk, compared."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dedupfs.service import mounts, report
from dedupfs.transfer import stores
from dedupfs.transfer.comparing import Comparer
from dedupfs.transfer.copying import Copied, Copier
from dedupfs.transfer.tree import Problems, TransferError, survey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dedupfs.transfer.tree import Tick


@dataclass(slots=True)
class Exported:
    """What an export did."""

    source: Path
    target: Path
    files: int
    logical_bytes: int
    lost: dict[str, int] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return the JSON document."""
        return {
            "source": str(self.source),
            "target": str(self.target),
            "files": self.files,
            "logical_bytes": self.logical_bytes,
            "lost": self.lost,
        }


def export(path: Path, target: Path, *, resumes: bool, tick: Tick) -> Exported:
    """Copy a mount or a store to `target`; raises DedupfsError.

    `target` is made, or empty, or, with `resumes`, what an export has left.
    """
    store = _store_of(path)
    resolved = mounts.resolve(target)
    _prepare(resolved, store, resumes=resumes)
    with stores.folder_of(store, read_only=True) as folder:
        problems = Problems()
        tick("counting", 0, 0)
        found = survey(folder, problems)
        problems.check(f"{path} cannot be read whole, nothing was done:")
        copier = Copier(
            folder, os.fsencode(resolved), replaces=resumes, removes=False,
            tick=_stepped(tick, "copying", found.logical_bytes),
        )  # fmt: skip
        copied = copier.run()
        copied.problems.check(f"not everything could be written to {target}:")
        _sync(resolved)
        _compare(folder, resolved, copied, _stepped(tick, "comparing", found.logical_bytes))
    return Exported(path, resolved, found.files, found.logical_bytes, copied.lost)


def _store_of(path: Path) -> Path:
    store = report.store_of(path)
    if store is None:
        raise TransferError(f"{path} is neither a dedupfs mount nor a store")
    return store


def _prepare(target: Path, store: Path, *, resumes: bool) -> None:
    if target.is_relative_to(store) or any(
        mount.is_dedupfs and mount.store == store and target.is_relative_to(mount.path)
        for mount in mounts.mounts()
    ):
        raise TransferError(f"{target} lies in what is to be exported: name a folder outside")
    try:
        target.mkdir(exist_ok=True)
        if any(target.iterdir()) and not resumes:
            raise TransferError(
                f"{target} is not empty: name an empty or new folder, or go on with --resume"
            )
    except OSError as error:
        raise TransferError(f"{target}: {error.strerror}") from None


def _compare(folder: bytes, target: Path, copied: Copied, step: Callable[[int], None]) -> None:
    problems = Comparer(
        folder, os.fsencode(target), copied=copied, unchanged_since_ns=sys.maxsize,
        allows_more=False, marks=True, tick=step,
    ).run()  # fmt: skip
    problems.check(
        f"{target} is not as the mount is now; run the command again with --resume when nothing "
        "writes there:"
    )


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # syncfs(2): all of the target's file system, names and content.
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            number = ctypes.get_errno()
            raise TransferError(f"{folder}: not all is on disk: {os.strerror(number)}")
    finally:
        os.close(fd)


def _stepped(tick: Tick, what: str, total_bytes: int) -> Callable[[int], None]:
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        tick(what, done, total_bytes)

    return step
