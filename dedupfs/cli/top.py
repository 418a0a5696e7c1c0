"""`dedupfs top`: a mount live on the terminal. The screen is in `cli.top_screen`."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import Annotated

import typer

from dedupfs.cli.errors import UsageError


def top(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT",
            help="A dedupfs mount. Default: the only one there is.",
            show_default=False,
        ),
    ] = None,
    *,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, max=60, help="Time between two looks.")
    ] = 1.0,
) -> None:
    """Watch a mount live: requests, throughput, saving, evictions, and its biggest units.

    Keys: s sorts, p pins a unit so that it is never evicted, r measures the units anew, ? helps,
    q quits. It ends when the mount ends.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal: dedupfs status --json is for programs")
    from dedupfs.cli.top_screen import Top  # noqa: PLC0415 - slow to import
    from dedupfs.service import survey  # noqa: PLC0415

    app = Top(survey.only_mount(path), interval_s=interval)
    app.run()
    if app.farewell:
        typer.echo(app.farewell)
