"""A look at the index tables, and a change of them that can be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lmdb

    from dedupfs.core.format import Counters

# A row behind all others, never shown. LMDB gives up the page of a table that becomes empty until
# the next commit, so that each row that comes and goes alone would cost 4 KiB.
LAST_KEY: Final = b"\xff" * 17


# A row changed by the current operation: table, key, value, and the value before. No NamedTuple:
# there are forty for each MiB of new bytes, and making one takes ten times as long.
Undo: TypeAlias = tuple[str, bytes, bytes | None, bytes | None]


class Txn:
    """A transaction: each table is a map of bytes to bytes in key order."""

    __slots__ = ("_tables", "changes", "counters", "lmdb_txn", "unmarked_frees")

    def __init__(
        self, txn: lmdb.Transaction, tables: dict[str, lmdb._Database], counters: Counters
    ) -> None:
        self.lmdb_txn = txn
        self._tables = tables
        self.changes: list[Undo] = []
        self.counters = counters
        # By segment, the starts of freed ranges that the last checkpoint may still refer to.
        self.unmarked_frees: dict[int, set[int]] = {}

    def __enter__(self) -> Self:
        # A look is opened for each request: a generator would cost as much as what is looked at.
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        return cast("bytes | None", self.lmdb_txn.get(key, db=self._tables[table]))

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Set the value under `key`."""
        database = self._tables[table]
        old = cast("bytes | None", self.lmdb_txn.get(key, db=database))
        if old == value:
            return
        self.lmdb_txn.put(key, value, db=database)
        self.changes.append((table, key, value, old))

    def append(self, table: str, key: bytes, value: bytes) -> bool:
        """Set `key` only if it is new; return whether it was."""
        if not self.lmdb_txn.put(key, value, overwrite=False, db=self._tables[table]):
            return False
        self.changes.append((table, key, value, None))
        return True

    def delete(self, table: str, key: bytes) -> bool:
        """Remove `key`; return whether it was there."""
        old = cast("bytes | None", self.lmdb_txn.pop(key, db=self._tables[table]))
        if old is None:
            return False
        self.changes.append((table, key, None, old))
        return True

    def scan(
        self, table: str, start: bytes, stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield rows with `start <= key < stop` in key order.

        The table must not change while the iterator is in use: take a list first.
        """
        stop = LAST_KEY if stop is None else stop
        with self.lmdb_txn.cursor(db=self._tables[table]) as cursor:
            if not cursor.set_range(start):
                return
            rows = cast("Iterator[tuple[bytes, bytes]]", cursor.iternext(keys=True, values=True))
            for key, value in rows:
                if key >= stop:
                    return
                yield key, value

    def floor(self, table: str, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the row with the greatest key `<= key`, or None."""
        with self.lmdb_txn.cursor(db=self._tables[table]) as cursor:
            at_or_after = cursor.set_range(key)
            found = (cursor.key() == key or cursor.prev()) if at_or_after else cursor.last()
            return cast("tuple[bytes, bytes]", cursor.item()) if found else None

    def clear(self, table: str) -> None:
        """Remove all rows of a table; cannot be undone."""
        self.lmdb_txn.drop(self._tables[table], delete=False)

    def rows(self, table: str) -> int:
        """Return how many rows the table has."""
        entries = int(self.lmdb_txn.stat(db=self._tables[table])["entries"])
        return entries - (self.get(table, LAST_KEY) is not None)

    def undo(self) -> None:
        """Put back what the current operation changed."""
        while self.changes:
            table, key, _value, old = self.changes.pop()
            if old is None:
                self.lmdb_txn.delete(key, db=self._tables[table])
            else:
                self.lmdb_txn.put(key, old, db=self._tables[table])
