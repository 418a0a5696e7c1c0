"""The command `stat` of the control socket: what one file of the mount takes, and how it is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import FsError
from dedupfs.service.control import BadRequest
from dedupfs.store import walking

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dedupfs.store.index import Index
    from dedupfs.vfs.vfs import Vfs

    Document = dict[str, object]

STAT: Final = "stat"


class Inspecting:
    """Answers for files by their path from the mount's root."""

    def __init__(self, index: Index, vfs: Vfs, io_reason: Callable[[], str]) -> None:
        """`io_reason` says why the mount has the io mode that it has."""
        self._index = index
        self._vfs = vfs
        self._io_reason = io_reason
        self.commands: Mapping[str, Callable[[Mapping[str, object]], Document]] = {STAT: self._stat}

    def _stat(self, request: Mapping[str, object]) -> Document:
        path = request.get("path")
        if not isinstance(path, str):
            raise BadRequest("stat: path: want a text")
        with self._index.read() as txn:
            place = walking.find_place(txn, os.fsencode(path))
            ino = None if place is None else walking.inode_at(txn, place)
        if ino is None:
            raise BadRequest(f"{path}: no such file in the mount")
        try:
            found = self._vfs.inspect(ino)
        except FsError as error:
            raise BadRequest(f"{path or 'the mount'}: {error}") from None
        reason = found.why_not_passed
        if not self._vfs.passthrough.is_enabled:
            reason = f"{reason}: {self._io_reason()}"
        return {
            "path": path,
            "inode": ino,
            "size_bytes": found.size_bytes,
            "links": found.links,
            "logical_bytes": found.usage.logical,
            "physical_share_bytes": found.usage.physical_share,
            "exclusive_bytes": found.usage.exclusive,
            "extents": found.usage.extents,
            "damaged_bytes": found.damaged_bytes,
            "open_handles": found.handles,
            "is_read_past_the_daemon": found.is_passed,
            "why_not": reason,
        }
