"""What a check found: problems, each with the change of the index that mends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.store.txn import Txn

    # (what is being done, rows or bytes done, of how many)
    Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Problem:
    """One disagreement. `fix` changes the index so that the next look finds it no more."""

    kind: str
    detail: str
    ino: int | None = None
    segment: int | None = None
    path: bytes | None = None  # of `ino`, when it has one
    fix: Callable[[Txn], None] | None = None
    is_lost: bool = False  # the file of `ino` goes to lost+found
    is_lasting: bool = False  # only from a copy of the index can it be mended
    repaired: str = ""  # what was done

    def document(self) -> dict[str, object]:
        """Return it for JSON."""
        out: dict[str, object] = {"kind": self.kind}
        if self.path is not None:
            out["path"] = self.path.decode(errors="backslashreplace")
        if self.ino is not None:
            out["inode"] = self.ino
        if self.segment is not None:
            out["segment"] = f"{self.segment:016x}"
        return out | {"detail": self.detail, "repaired": self.repaired or False}


@dataclass(slots=True)
class Report:
    """The result of a run."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # worth knowing, nothing wrong
    summary: dict[str, object] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong from the start."""
        return not self.problems

    @property
    def left(self) -> int:
        """How many problems are not mended."""
        return sum(not problem.repaired for problem in self.problems)

    def document(self) -> dict[str, object]:
        """Return it for JSON."""
        return {
            "clean": self.is_clean,
            "problems": [problem.document() for problem in self.problems],
            "notes": self.notes,
            "summary": self.summary,
        }


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""
    del what, done, total
