"""Taking an existing folder into a store, so that the store can be mounted over it.

Copy, put it on disk, compare with the originals, and only then: DIR becomes DIR.before-dedupfs, and
an empty DIR takes its place. The originals are never touched but for that; they go only when asked
for, and only those that have not changed since the comparison. What breaks off goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.core.format import STORE_FILES
from dedupfs.core.quantities import size
from dedupfs.service import mounts, preflight
from dedupfs.store.journal import sync_folder
from dedupfs.transfer import stores
from dedupfs.transfer.comparing import Comparer
from dedupfs.transfer.copying import Copied, Copier
from dedupfs.transfer.estimating import Estimator
from dedupfs.transfer.record import Record, Step
from dedupfs.transfer.tree import Problems, Survey, TransferError, changed_since, survey, walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.transfer.tree import Tick

SUFFIX: Final = ".before-dedupfs"
_INDEX_PART: Final = 100  # the index takes less than this part of the content
_SLACK_BYTES: Final = 64 << 20


@dataclass(slots=True)
class Imported:
    """What an import did."""

    source: Path
    originals: Path
    store: Path
    files: int
    logical_bytes: int
    allocated_bytes: int
    lost: dict[str, int] = field(default_factory=dict)
    was_done: bool = False

    def document(self) -> dict[str, object]:
        """Return the JSON document."""
        return {
            "source": str(self.source),
            "originals": str(self.originals),
            "store": str(self.store),
            "files": self.files,
            "logical_bytes": self.logical_bytes,
            "allocated_bytes": self.allocated_bytes,
            "lost": self.lost,
            "was_done": self.was_done,
        }


@dataclass(frozen=True, slots=True)
class Removable:
    """Originals that may be removed."""

    originals: Path
    found: Survey


class Import:
    """One import of `source` into `store`; both resolved."""

    def __init__(self, source: Path, store: Path, *, replaces: bool, tick: Tick) -> None:
        """Take the paths; with `replaces` the store's files of the same name give way."""
        self.source = source
        self.originals = source.with_name(source.name + SUFFIX)
        self.store = store
        self._replaces = replaces
        self._tick = tick
        self._total_bytes = 0
        self._done_bytes = 0

    def run(self) -> Imported:
        """Import; what an earlier one has done is not done again. Raises DedupfsError."""
        record = self._record()
        if record is not None and record.step is not Step.COPYING and self._is_swapped(record):
            if record.step is Step.VERIFIED:
                record = self._swap(record)
            return self._done(record, {}, was_done=True)
        self._check()
        found = self._count()
        owns = self._owns_store(record)
        self._check_room(found, is_resumed=record is not None)
        record = Record(
            str(self.source), str(self.originals), Step.COPYING, owns_store=owns,
            files=found.files, logical_bytes=found.logical_bytes,
        )  # fmt: skip
        copied = self._copy(record)
        record = self._verify(record, copied)
        return self._done(self._swap(record), copied.lost)

    def removable(self) -> Removable:
        """Return the originals, if all of them are in the store as they are. Raises TransferError."""
        record = Record.read(self.store)
        if record is None or record.originals != str(self.originals):
            raise TransferError(
                f"the store {self.store} does not say that {self.source} was imported into it: "
                "nothing is removed"
            )
        if record.step is not Step.SWAPPED or not self.originals.is_dir():
            raise TransferError(f"{self.originals} is not there: nothing to remove")
        problems = Problems()
        changed_since(os.fsencode(self.originals), record.verified_ns, problems)
        problems.check(f"nothing is removed: {self.originals} is not as it was imported")
        return Removable(self.originals, survey(os.fsencode(self.originals), problems))

    def _record(self) -> Record | None:
        record = Record.read(self.store)
        return record if record is not None and record.source == str(self.source) else None

    def _is_swapped(self, record: Record) -> bool:
        """Tell whether the originals are aside, and nothing new is in their place."""
        if not Path(record.originals).is_dir():
            return False
        mount = mounts.mount_at(self.source)
        if mount is not None and mount.is_dedupfs:
            return mount.store == self.store
        return not self.source.exists() or not any(self.source.iterdir())

    def _check(self) -> None:
        mount = mounts.mount_at(self.source)
        if mount is not None:
            what = "a dedupfs mount already" if mount.is_dedupfs else f"a mount ({mount.fs_type})"
            raise TransferError(f"{self.source} is {what}: import a folder that is none")
        if not self.source.is_dir():
            raise TransferError(f"{self.source} is not a directory")
        if self.originals.exists():
            raise TransferError(
                f"{self.originals} is there already, with what was imported before: move it away, "
                f"or remove it with `dedupfs import {self.source} --delete-originals`"
            )
        if self.store.is_relative_to(self.source) or self.source.is_relative_to(self.store):
            raise TransferError(
                f"the store {self.store} and {self.source} must not lie in one another"
            )
        if not os.access(self.source.parent, os.W_OK):
            raise TransferError(f"{self.source.parent}: no permission to rename {self.source.name}")

    def _count(self) -> Survey:
        problems = Problems()
        self._tick("counting", 0, 0)
        found = survey(os.fsencode(self.source), problems)
        problems.check(f"{self.source} cannot be imported whole, nothing was done:")
        self._total_bytes = found.logical_bytes
        return found

    def _owns_store(self, record: Record | None) -> bool:
        if record is not None and record.step is not Step.SWAPPED:
            return record.owns_store  # the store holds what a broken-off import has left
        if not (self.store / STORE_FILES["marker"]).exists():
            return True
        with stores.folder_of(self.store) as folder:
            return not os.listdir(folder)  # noqa: PTH208 - bytes

    def _check_room(self, found: Survey, *, is_resumed: bool) -> None:
        place = self.store if self.store.exists() else self.store.parent
        free = shutil.disk_usage(place).free
        there = _allocated(self.store) if is_resumed else 0
        if _with_index(found.allocated_bytes) - there <= free:
            return
        # Perhaps the copies in it make the difference: that needs a look at the content.
        estimator = Estimator(os.fsencode(self.source), self._tick)
        estimator.run()
        need = _with_index(estimator.result().unique_bytes)
        if need - there > free:
            raise TransferError(
                f"{place} has {size(free)} free, {self.source} needs {size(need - there)} there "
                f"({size(found.logical_bytes)}, copies counted once): make "
                f"{size(need - there - free)} more room, or name another disk with --store"
            )

    def _copy(self, record: Record) -> Copied:
        with stores.folder_of(self.store) as folder:
            record.write(self.store)
            self._done_bytes = 0
            copier = Copier(
                os.fsencode(self.source), folder,
                replaces=self._replaces or record.owns_store, removes=record.owns_store,
                tick=self._stepped("copying"),
            )  # fmt: skip
            copied = copier.run()
        copied.problems.check("not everything could be copied, nothing else was done:")
        return copied

    def _verify(self, record: Record, copied: Copied) -> Record:
        self._done_bytes = 0
        stores.drop_pages(self.store)
        instant_ns = _now_of(self.source.parent)
        with stores.folder_of(self.store) as folder:
            problems = Comparer(
                os.fsencode(self.source), folder, copied=copied, unchanged_since_ns=instant_ns,
                allows_more=not record.owns_store, marks=True, tick=self._stepped("comparing"),
            ).run()  # fmt: skip
        changed_since(os.fsencode(self.source), instant_ns, problems)
        problems.check(
            f"the copy is not as {self.source} is now, nothing else was done; run the command "
            "again when nothing writes there, only the differences will be copied:"
        )
        verified = replace(record, step=Step.VERIFIED, verified_ns=instant_ns)
        verified.write(self.store)
        return verified

    def _swap(self, record: Record) -> Record:
        """Put the originals aside, an empty folder in their place; whatever was done of it."""
        if not self.originals.exists():
            self.source.rename(self.originals)
        found = self.originals.stat()
        self.source.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self.source, found.st_uid, found.st_gid)
        self.source.chmod(stat.S_IMODE(found.st_mode))
        sync_folder(self.source.parent)
        swapped = replace(record, step=Step.SWAPPED)
        swapped.write(self.store)
        return swapped

    def _done(self, record: Record, lost: dict[str, int], *, was_done: bool = False) -> Imported:
        return Imported(
            self.source, self.originals, self.store, record.files, record.logical_bytes,
            _allocated(self.store), lost, was_done,
        )  # fmt: skip

    def _stepped(self, what: str) -> Callable[[int], None]:
        def step(count: int) -> None:
            self._done_bytes += count
            self._tick(what, self._done_bytes, self._total_bytes)

        return step


def begin(source: Path, store: Path | None, *, replaces: bool, tick: Tick) -> Import:
    """Return an import of `source`; the default store is that of a mount there."""
    resolved = mounts.resolve(source)
    chosen = mounts.resolve(store) if store is not None else preflight.default_store(resolved)
    return Import(resolved, chosen, replaces=replaces, tick=tick)


def remove(found: Removable) -> None:
    """Remove the originals. Raises TransferError."""
    try:
        for entry in walk(os.fsencode(found.originals), Problems()):
            if entry.kind == stat.S_IFDIR and not entry.found.st_mode & stat.S_IWUSR:
                os.chmod(entry.path, 0o700)  # noqa: PTH101 - bytes; else a user cannot empty it
        shutil.rmtree(found.originals)
        sync_folder(found.originals.parent)
    except OSError as error:
        raise TransferError(
            f"{error.filename}: {error.strerror}; what is left of {found.originals} is no longer "
            "whole, its content is in the store"
        ) from None


def _with_index(content_bytes: int) -> int:
    return content_bytes + content_bytes // _INDEX_PART + _SLACK_BYTES


def _allocated(store: Path) -> int:
    folder = store / STORE_FILES["segments"]
    if not folder.is_dir():
        return 0
    return sum(entry.stat().st_blocks * 512 for entry in os.scandir(folder))


def _now_of(folder: Path) -> int:
    """Return the time by the clock that stamps the files of this file system."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".dedupfs-") as probe:
        return os.fstat(probe.fileno()).st_ctime_ns
