"""`dedupfs import` and `dedupfs export`: progress, what was done, what to do next."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from dedupfs.cli.errors import INTERRUPTED, REFUSED
from dedupfs.core.quantities import size

if TYPE_CHECKING:
    from collections.abc import Callable

    from dedupfs.transfer.importing import Import, Imported

T = TypeVar("T")

IMPORT_EPILOG: Final = """
[bold]What happens to DIR[/bold]

1. Everything in DIR is copied into the store; DIR is only read. \
2. The copies are read back from the disk and compared with the originals, byte for byte. \
3. DIR is renamed to DIR.before-dedupfs, and a new, empty DIR takes its place, to be mounted over.

Until step 3 nothing has changed for programs. Broken off anywhere (Ctrl-C, kill, power cut), the \
same command goes on where it was. To undo: \
[cyan]rmdir DIR && mv DIR.before-dedupfs DIR[/cyan]. The originals keep their space until \
--delete-originals.

[bold]Examples[/bold]

[cyan]dedupfs import ~/.cache/modelscope/hub/tmp && dedupfs mount ~/.cache/modelscope/hub/tmp[/cyan]
the same files as before, in the space of one copy

[cyan]dedupfs import ~/.cache/huggingface --store /bigdisk/hf.store[/cyan]
where the disk of DIR has no room for both

[cyan]dedupfs import ~/.cache/modelscope/hub/tmp --delete-originals[/cyan]
days later, or at once: says what would be removed and asks

[bold]Exit status[/bold]

0 done; 1 not done, stderr says why and what then; 2 wrong arguments; 130 interrupted
"""

EXPORT_EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs export ~/.cache/.hub.dedupfs /data/plain[/cyan]
a store, mounted or not, becomes plain files

[cyan]dedupfs export /mnt/cache /data/plain --resume[/cyan]
go on with an export that broke off
"""


def import_(  # noqa: PLR0913 - one parameter an option
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="An existing cache.", show_default=False)
    ],
    *,
    store: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Default: .NAME.dedupfs beside DIR; made if missing."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="The store has had files before: replace those of the same name. Without it they "
            "must be equal.",
        ),
    ] = False,
    delete_originals: Annotated[
        bool,
        typer.Option(
            "--delete-originals",
            help="When all is imported, now or before: say what would be removed, and remove it "
            "if you agree. Refused when an original has changed since it was compared.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; sizes in bytes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only errors.")] = False,
) -> None:
    """Take DIR with all that is in it into a store, so that the store can be mounted over DIR.

    Keeps names, modes, owners, times, extended attributes, hard links, symlinks, holes and empty
    folders. Sockets and ACLs are left out, and told.
    """
    from dedupfs.cli.progress import phases  # noqa: PLC0415
    from dedupfs.transfer import importing  # noqa: PLC0415

    with phases(quiet=quiet or as_json) as tick:
        work = importing.begin(folder, store, replaces=replace, tick=tick)
        done = _stoppable(work.run)
    if as_json:
        typer.echo(json.dumps(done.document(), indent=2))
    elif not quiet:
        _tell(done, delete_originals=delete_originals, store=store)
    if delete_originals:
        _delete(work, agreed=yes, quiet=quiet or as_json)


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MOUNTPOINT|STORE", help="What to write out; only read.", show_default=False
        ),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DEST", help="A new or empty folder.", show_default=False)
    ],
    *,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="DEST is what a broken-off export has left: keep what is whole, replace the rest.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; sizes in bytes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only errors.")] = False,
) -> None:
    """Write everything that a mount or a store holds into DEST, as plain files.

    The files are compared with the mount when they are on the disk. Holes, hard links, times, modes
    and extended attributes are kept; copies take their full space again.
    """
    from dedupfs.cli.progress import phases  # noqa: PLC0415
    from dedupfs.transfer import exporting  # noqa: PLC0415

    with phases(quiet=quiet or as_json) as tick:
        done = _stoppable(
            lambda: exporting.export(source, target, resumes=resume, tick=tick),
            goes_on="with --resume the same command",
        )
    if as_json:
        typer.echo(json.dumps(done.document(), indent=2))
    elif not quiet:
        typer.echo(f"{done.files:,} files, {size(done.logical_bytes)}, are in {done.target}")
        _tell_lost(done.lost)


def _stoppable(work: Callable[[], T], *, goes_on: str = "the same command") -> T:
    from dedupfs.service import running  # noqa: PLC0415

    try:
        with running.ending_signals():
            return work()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except running.Stopped as stopped:
        code = running.SIGNALLED + stopped.number
    typer.echo(f"dedupfs: interrupted; {goes_on} goes on from here", err=True)
    raise typer.Exit(code)


def _tell(done: Imported, *, delete_originals: bool, store: Path | None) -> None:
    was = "were imported before" if done.was_done else "are in the store and compared"
    typer.echo(f"{done.files:,} files, {size(done.logical_bytes)}, {was}: "
               f"{size(done.allocated_bytes)} on disk")  # fmt: skip
    _tell_lost(done.lost)
    folder = shlex.quote(str(done.source))
    with_store = f" --store {shlex.quote(str(store))}" if store is not None else ""
    typer.echo(f"use them:         dedupfs mount {folder}{with_store}")
    if not delete_originals and done.originals.exists():
        typer.echo(f"the originals:    {done.originals}")
        typer.echo(f"free their space: dedupfs import {folder}{with_store} --delete-originals")


def _tell_lost(lost: dict[str, int]) -> None:
    for kind, count in lost.items():
        typer.echo(f"dedupfs: warning: {count:,} {kind} were left out", err=True)


def _delete(work: Import, *, agreed: bool, quiet: bool) -> None:
    from dedupfs.transfer import importing  # noqa: PLC0415

    found = work.removable()
    what = (
        f"{found.originals}: {found.found.files:,} files, "
        f"{size(found.found.allocated_bytes)} on disk"
    )
    if not agreed:
        typer.echo(f"would remove {what}")
        if not sys.stdin.isatty():
            typer.echo("dedupfs: nothing was removed: agree with --yes", err=True)
            raise typer.Exit(REFUSED)
        typer.confirm("Remove them?", abort=True)
    importing.remove(found)
    if not quiet:
        typer.echo(f"removed {what}")
