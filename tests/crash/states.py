"""What a disk may hold after a power cut: all that was synced, and any part of what came after.

As POSIX has it and no more: a page written and not synced is there or not, whatever others are;
a name is durable when its folder was synced. Real file systems promise more.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from crash.child import REOPENED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crash.recording import Change, File, Recording

PAGE_BYTES: Final = 4096
INDEX: Final = "data.mdb"
META_PAGES: Final = 0, PAGE_BYTES
FOLDED: Final = "commit of data.mdb"
FOLDS_MAX: Final = 12


class Cut:
    """One moment, and a choice of what of the unsynced is on disk then."""

    def __init__(self, recording: Recording, at: int, way: str, seed: str) -> None:
        self.at = at  # lines before this happened
        self.way = way
        self._recording = recording
        self._random = random.Random(f"{seed} {at} {way}")
        self._keeps = WAYS[way](self)

    def build(self, folder: Path) -> None:
        """Write the disk's content to `folder`."""
        contents: dict[File, bytearray] = {}
        names: dict[File, dict[str, File]] = {self._recording.root: {}}
        for change in self._recording.changes:
            if change.at >= self.at:
                break
            is_durable = change.durable_at < self.at
            if change.kind == "names":
                if is_durable or self._keeps(change, None):
                    _rename(names.setdefault(change.file, {}), change)
                continue
            _apply(contents.setdefault(change.file, bytearray()), change,
                   self.keep if is_durable else self._keeps)  # fmt: skip
        _write_out(self._recording.root, folder, names, contents)

    def drop(self, _change: Change, _page: int | None) -> bool:
        return False

    def keep(self, _change: Change, _page: int | None) -> bool:
        return True

    def often(self, _change: Change, _page: int | None) -> bool:
        return self._random.random() < 0.9

    def half(self, _change: Change, _page: int | None) -> bool:
        return self._random.random() < 0.5

    def seldom(self, _change: Change, _page: int | None) -> bool:
        return self._random.random() < 0.1

    def names_only(self, _change: Change, page: int | None) -> bool:
        return page is None

    def data_only(self, _change: Change, page: int | None) -> bool:
        return page is not None

    def torn(self, change: Change, page: int | None) -> bool:
        """LMDB's new meta page, some of the tree that it names, nothing else."""
        return change.file.kind == INDEX and (page in META_PAGES or self.half(change, page))

    def torn_amid_all(self, change: Change, page: int | None) -> bool:
        return change.file.kind != INDEX or self.torn(change, page)

    def torn_amid_some(self, change: Change, page: int | None) -> bool:
        return self.torn(change, page) if change.file.kind == INDEX else self.half(change, page)

    def headless(self, change: Change, page: int | None) -> bool:
        """Some of a new tree, without the meta page that names it."""
        return page not in META_PAGES if change.file.kind == INDEX else self.half(change, page)


WAYS: Final[dict[str, Callable[[Cut], Callable[[Change, int | None], bool]]]] = {
    "dropped": lambda cut: cut.drop,
    "kept": lambda cut: cut.keep,
    "mostly kept": lambda cut: cut.often,
    "half kept": lambda cut: cut.half,
    "mostly dropped": lambda cut: cut.seldom,
    "names kept": lambda cut: cut.names_only,
    "bytes kept": lambda cut: cut.data_only,
    "index torn, the rest dropped": lambda cut: cut.torn,
    "index torn, the rest kept": lambda cut: cut.torn_amid_all,
    "index torn, the rest half kept": lambda cut: cut.torn_amid_some,
    "index without its meta page": lambda cut: cut.headless,
}
TORN: Final = [way for way in WAYS if way.startswith("index")]


def cuts(recording: Recording, seed: str) -> Iterator[Cut]:
    """Yield cuts without end: around syncs and removals of each kind in turn, in all ways."""
    chosen = random.Random(seed)
    kinds = _moments(recording)
    # A fold is rare and the most delicate: its commit is there or not, in part, until it is synced.
    for number, (begun, ended) in enumerate(kinds[FOLDED][:FOLDS_MAX]):
        yield Cut(recording, chosen.randint(begun + 1, ended), TORN[number % len(TORN)], seed)
    ways = [*WAYS, "dropped", "kept"]
    while True:
        for moments in kinds.values():
            begun, ended = chosen.choice(moments)
            at = chosen.choice((ended, ended + 1, ended + 1, chosen.randint(begun, ended + 40)))
            way = chosen.choice(ways)
            if moments is kinds[FOLDED]:
                at, way = chosen.randint(begun + 1, ended), chosen.choice(TORN)
            yield Cut(recording, at, way, f"{seed} {chosen.random()}")


def _moments(recording: Recording) -> dict[str, list[tuple[int, int]]]:
    """Return the begin and end of what is worth cutting at, by kind."""
    kinds: dict[str, list[tuple[int, int]]] = {}
    for sync in recording.syncs:
        kinds.setdefault(sync.label, []).append((sync.begun, sync.at))
    last = recording.changes[-1].at
    for change in recording.changes:
        is_meta = change.file.kind == INDEX and change.offset < META_PAGES[-1] + PAGE_BYTES
        if is_meta and change.at < min(change.durable_at, last):  # not one that was synced at once
            kinds.setdefault(FOLDED, []).append((change.at, min(change.durable_at, last)))
        if change.kind == "punch" or None in change.names.values():
            kinds.setdefault(change.kind, []).append((change.at, change.at))
    for at, text in recording.acknowledged:
        if text == REOPENED:
            kinds.setdefault(text, []).append((at, at))
    return kinds


def _rename(names: dict[str, File], change: Change) -> None:
    for name, file in change.names.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _apply(content: bytearray, change: Change, keeps: Callable[[Change, int | None], bool]) -> None:
    if change.kind == "write":
        start, stop = change.offset, change.offset + change.length
        for page in range(start - start % PAGE_BYTES, stop, PAGE_BYTES):
            if keeps(change, page):
                first, last = max(start, page), min(stop, page + PAGE_BYTES)
                _grow(content, last)
                content[first:last] = change.data[first - start : last - start]
        return
    if not keeps(change, None):
        return
    if change.kind == "truncate":
        del content[change.length :]
        _grow(content, change.length)
    elif change.kind == "allocate":
        _grow(content, change.offset + change.length)
    else:
        stop = min(change.offset + change.length, len(content))
        content[change.offset : stop] = bytes(max(0, stop - change.offset))


def _grow(content: bytearray, size: int) -> None:
    if size > len(content):
        content.extend(bytes(size - len(content)))


def _write_out(
    file: File, path: Path, names: dict[File, dict[str, File]], contents: dict[File, bytearray]
) -> None:
    if file.is_folder:
        path.mkdir()
        for name, below in names.get(file, {}).items():
            _write_out(below, path / name, names, contents)
    else:
        path.write_bytes(contents.get(file, b""))
