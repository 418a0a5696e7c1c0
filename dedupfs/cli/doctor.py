"""`dedupfs doctor`: a line for each thing looked at, what to do where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import Annotated, Final

import typer

EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs doctor[/cyan]
this machine, and all mounts

[cyan]dedupfs doctor ~/.cache/modelscope/hub/tmp[/cyan]
before mounting there: also the disk its store would lie on

[bold]Exit status[/bold]

0 no problem, though perhaps warnings; 1 a problem: mounting fails, or data is at risk
"""


def doctor(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT|STORE",
            help="Look at the store of this, there or to be, and its disk. Default: all mounts.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only warnings and problems.")
    ] = False,
) -> None:
    """Look whether this machine has what dedupfs needs, and say what to do where it has not.

    Kernel, /dev/fuse, fusermount3, libfuse, rights, limits, mounts, disks, and the environment
    variables that say where caches are. Nothing is changed.
    """
    from dedupfs.service.doctor.examine import examine  # noqa: PLC0415 - loads libfuse
    from dedupfs.service.doctor.findings import Level  # noqa: PLC0415

    found = examine(path)
    bad = any(finding.level is Level.PROBLEM for finding in found)
    if as_json:
        documents = [finding.document() for finding in found]
        typer.echo(json.dumps({"ok": not bad, "findings": documents}, indent=2))
        raise typer.Exit(int(bad))
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(soft_wrap=True)
    colours = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}
    for finding in found:
        if quiet and finding.level is Level.OK:
            continue
        line = Text(f"{finding.level:<8}", style=colours[finding.level])
        line.append(f"{finding.what}: ", style="bold")
        line.append(finding.text, style="default")
        console.print(line)
        if finding.advice:
            console.print(Text(f"        {finding.advice}", style="dim"))
    raise typer.Exit(int(bad))
