"""Exit codes, and errors as one line: a user never sees a stack trace."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Final

import typer

from dedupfs.core.errors import DedupfsError

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
_DEAD_MOUNT: Final = (
    "a mount's daemon has died: `dedupfs mount` there again clears the dead mount, "
    "nothing acknowledged is lost"
)


class UsageError(DedupfsError):
    """The arguments make no sense."""


def exit_code(command: Callable[[], object], *, name: str = "dedupfs", subcommand: str = "") -> int:
    """Run `command`, tell its error if there is one, and return the exit code.

    `subcommand` is whose help is named where the arguments make no sense.
    """
    try:
        result = command()
    except BrokenPipeError:
        # The reader of our output has left; keep Python from complaining at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return REFUSED
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("DEDUPFS_TRACEBACK"):
            raise
        text, code = _told(error, f"{name} {subcommand}".rstrip())
        print(f"{name}: {text}", file=sys.stderr)  # noqa: T201 - what this module is for
        return code
    return result if isinstance(result, int) else 0


def _told(error: BaseException, helper: str) -> tuple[str, int]:
    match error:
        case typer.TyperException():
            return f"{_one_line(error.format_message())} (see {helper} --help)", error.exit_code
        case UsageError():
            return f"{error} (see {helper} --help)", USAGE
        case DedupfsError():
            return str(error), REFUSED
        case KeyboardInterrupt() | typer.Abort():
            return "interrupted", INTERRUPTED
        case OSError(errno=errno.ENOTCONN):
            return f"{_place(error)}{_DEAD_MOUNT}", REFUSED
        case _:
            return f"internal error: {error!r} (DEDUPFS_TRACEBACK=1 shows where)", REFUSED


def _place(error: OSError) -> str:
    return "" if error.filename is None else f"{os.fsdecode(error.filename)}: "


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
