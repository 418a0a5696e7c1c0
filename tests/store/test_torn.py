"""If these fail, an index is not whole after the power went while LMDB's pages were on their way.

The index alone, with trees of hundreds of pages. What was synced is on the disk; of what was written
after that each page of 4 KiB is there or not. Power goes again while the index recovers; processes
are killed; commits fail half-way for want of room.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.errors import NoSpace
from dedupfs.core.format import U64
from dedupfs.store import instance, journal, pages, rollback
from dedupfs.store.index import Index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = 4096
U16 = struct.Struct(">H")
STATES = int(os.environ.get("DEDUPFS_TORN_STATES", "60"))
SEED = os.environ.get("DEDUPFS_CRASH_SEED", "torn")
NUMBER = b"\0number"
TABLES_USED = ("dirents", "xattrs", "extents", "chunks")
ROWS_MIN = 3000


class Cut(Exception):
    """The power goes."""


class Disk:
    """What of a folder is durable; `lose` leaves any part of the rest."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self.folder = folder
        self.syncs_left = -1  # before the power goes; negative: it stays
        self._random = rng
        self._files: dict[str, bytes] = {}
        self._names: set[str] = set()

    def sync(self, fd: int) -> None:
        """Stands in for fsync and fdatasync."""
        self.tick()
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path == self.folder:
            self._names = {one.name for one in path.iterdir()}
        elif path.parent == self.folder:
            self._files[path.name] = path.read_bytes()

    def sync_all(self) -> None:
        self.tick()
        self._names = {one.name for one in self.folder.iterdir()}
        self._files = {name: (self.folder / name).read_bytes() for name in self._names}

    def tick(self) -> None:
        if self.syncs_left == 0:
            raise Cut
        self.syncs_left -= 1

    def lose(self, chance: float, *, meta: bool | None) -> None:
        """Keep what is durable, and of the rest about `chance`; of data.mdb the meta pages if `meta`."""
        now = {one.name: one.read_bytes() for one in self.folder.iterdir()}
        for name in {*now, *self._names}:
            path = self.folder / name
            if (name in now) != (name in self._names) and self._random.random() < 0.5:
                if name in now:
                    path.unlink()
                else:
                    path.write_bytes(self._files[name])
            elif name in now:
                old = self._files.get(name, b"")
                is_data = name == "data.mdb"
                path.write_bytes(self._mix(old, now[name], chance, meta=meta if is_data else None))
        self.sync_all()

    def _mix(self, old: bytes, new: bytes, chance: float, *, meta: bool | None) -> bytes:
        out = bytearray(old)
        for at in range(0, len(new), PAGE):
            keeps = self._random.random() < chance
            if at < 2 * PAGE and meta is not None:
                keeps = meta
            if keeps:
                page = new[at : at + PAGE]
                out.extend(bytes(max(0, at + len(page) - len(out))))
                out[at : at + len(page)] = page
        return bytes(out)


class Life:
    """An index that is worked on, its power cut, opened again, and so on."""

    def __init__(self, folder: Path, disk: Disk, rng: random.Random) -> None:
        self.folder = folder
        self.disk = disk
        self.boot = 0
        self.taken_back = 0
        self.refused = 0
        self._random = rng
        self._rows: dict[tuple[str, bytes], bytes] = {}
        self._history: list[dict[tuple[str, bytes], bytes | None]] = []
        self._durable = 0  # so many transactions must be there
        self._base = 0  # `_rows` has as many
        self._index: Index | None = None

    def current(self, _folder: Path) -> instance.Instance:
        return instance.Instance(b"boot %11d" % self.boot, 1)

    def run(self) -> None:
        """Work until the power goes."""
        with contextlib.suppress(Cut):
            if self._index is None:
                self.start()
            self.disk.syncs_left = self._random.choice((1, 3, 8, 20))
            while True:
                self._work()
                self._checkpoint()
                if self._random.random() < 0.1:
                    self.end()
                    self.start()

    def end(self) -> None:
        """End as a kill would, or in order."""
        assert self._index is not None
        if self._random.random() < 0.3:
            self._index.fold(clean=True)
        self._index.close()
        self._index = None

    def cut(self) -> None:
        """Lose power."""
        if self._index is not None:
            self._index.close()
            self._index = None
        self.disk.syncs_left = -1
        meta = self._random.choice((True, True, False, None))
        self.disk.lose(self._random.choice((0, 0.1, 0.5, 0.5, 0.9, 1)), meta=meta)
        self.boot += 1

    def start(self) -> None:
        """As Store.open does."""
        self.taken_back += rollback.roll_back(self.folder, self.current(self.folder))
        pages.check(self.folder / "data.mdb")
        self._index = Index(self.folder)

    def verify(self) -> None:
        """Find all that was durable, and the state after one transaction."""
        assert self._index is not None
        txn = self._index.read()
        raw = txn.get("meta", NUMBER)
        number = U64.unpack(raw)[0] if raw else 0
        assert self._durable <= number <= len(self._history)
        for change in self._history[self._base : number]:
            self._apply(change)
        del self._history[number:]
        self._base = self._durable = number
        found = {(t, k): v for t in TABLES_USED for k, v in txn.scan(t, b"")}
        assert found == self._rows, f"not the state after transaction {number}"

    def _apply(self, change: dict[tuple[str, bytes], bytes | None]) -> None:
        for where, value in change.items():
            if value is None:
                self._rows.pop(where, None)
            else:
                self._rows[where] = value

    def _work(self) -> None:
        assert self._index is not None
        for _ in range(self._random.choice((1, 5, 40))):
            change = self._change()
            with self._index.write() as txn:
                for (table, key), value in change.items():
                    if value is None:
                        txn.delete(table, key)
                    else:
                        txn.put(table, key, value)
                txn.put("meta", NUMBER, U64.pack(len(self._history) + 1))
            self._history.append(change)

    def _change(self) -> dict[tuple[str, bytes], bytes | None]:
        rng, change = self._random, {}
        count = ROWS_MIN if not self._history else rng.choice((1, 3, 30, 300))
        for _ in range(count):
            where = rng.choice(TABLES_USED), U16.pack(rng.getrandbits(11)) * rng.choice((1, 4, 40))
            gone = rng.random() < 0.4
            size = rng.choice((0, 20, 20, 100, 300, 9000 if rng.random() < 0.02 else 50))
            change[where] = None if gone else rng.randbytes(size)
        return change

    def _checkpoint(self) -> None:
        index, covered = self._index, len(self._history)
        assert index is not None
        index.marker().mark(index.position)
        self._durable = covered
        if self._random.random() < 0.3:
            self._work()  # meanwhile
        index.remove_old_journals()
        if self._random.random() < 0.6:
            self._fold(index)
        if self._random.random() < 0.1:
            self._fold(index)

    def _fold(self, index: Index) -> None:
        if self._random.random() > 0.3:
            index.fold()
            return
        size = (self.folder / "data.mdb").stat().st_size
        with limited(max(size, 1 << 20)):
            try:
                index.fold()
            except NoSpace:
                self.refused += 1


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file become longer: a commit that needs new pages fails half-way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Life]:
    folder = tmp_path / "index"
    rng = random.Random(SEED)
    disk = Disk(folder, rng)
    life = Life(folder, disk, rng)
    monkeypatch.setattr(instance, "current", life.current)
    Index(folder).close()
    disk.sync_all()
    monkeypatch.setattr(os, "fsync", disk.sync)
    monkeypatch.setattr(os, "fdatasync", disk.sync)
    monkeypatch.setattr(instance, "sync_file_system", lambda _folder: disk.sync_all())
    yield life
    disk.syncs_left = -1
    life.cut()


def play(life: Life, states: int) -> None:
    for number in range(states):
        try:
            life.run()
            life.cut()
            while life._random.random() < 0.4:  # and again while it recovers
                life.disk.syncs_left = life._random.randrange(8)
                with contextlib.suppress(Cut):
                    life.start()
                life.cut()
            life.start()
            life.verify()
        except BaseException as error:
            error.add_note(f"DEDUPFS_CRASH_SEED={SEED}, state {number}")
            raise


def test_whatever_part_of_a_commit_is_on_disk_the_index_is_whole(life: Life) -> None:
    play(life, STATES)
    print(f"\nindex: {STATES} states, {life.taken_back} commits taken back, {life.refused} refused")
    assert life.taken_back
    assert life.refused


def _never(_index: Path, _now: instance.Instance) -> bool:
    return False


def _unsynced(self: journal.Journal, position: int) -> None:
    self.is_base_durable = True
    MARK(self, position)


MARK = journal.Journal.mark


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [(rollback, "roll_back", _never), (journal.Journal, "mark", _unsynced)],
)
def test_an_index_without_it_is_caught(
    life: Life,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    wrong: Callable[..., object],
) -> None:
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever is wrong
        play(life, 60)
