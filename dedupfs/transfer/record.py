"""What `dedupfs import` has done, kept in the store: enough to go on, to undo, to remove originals."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from dedupfs.core.format import STORE_FILES
from dedupfs.store.journal import sync_folder
from dedupfs.transfer.tree import TransferError

if TYPE_CHECKING:
    from pathlib import Path


class Step(StrEnum):
    """How far an import is."""

    COPYING = "copying"
    VERIFIED = "verified"  # all is in the store, compared and on disk
    SWAPPED = "swapped"  # the originals are aside, an empty folder is in their place


@dataclass(frozen=True, slots=True)
class Record:
    """The last import into a store; paths as text, surrogate-escaped."""

    source: str
    originals: str
    step: Step
    owns_store: bool  # the store held nothing before: what is too much in it is ours to remove
    verified_ns: int = 0  # by the clock of the originals' file system
    files: int = 0
    logical_bytes: int = 0

    @classmethod
    def read(cls, store: Path) -> Self | None:
        """Return the record in a store, or None. Raises TransferError."""
        path = store / STORE_FILES["import"]
        try:
            raw = json.loads(path.read_text())
            return cls(**{**raw, "step": Step(raw["step"])})
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise TransferError(f"{path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError):
            raise TransferError(f"{path} is damaged: remove it to import anew") from None

    def write(self, store: Path) -> None:
        """Replace the record, durably. Raises OSError."""
        path = store / STORE_FILES["import"]
        unfinished = path.with_name(STORE_FILES["new_import"])
        with unfinished.open("w") as file:
            file.write(json.dumps(asdict(self), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(store)
