"""`dedupfs config`: which options are in force, where each comes from, whether a file is right."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from dedupfs.core.errors import MountError
from dedupfs.service import client, config, mounts, settings
from dedupfs.service.options import OPTIONS, MountOptions

app = typer.Typer(
    name="config", help="Show and check the options of mounts.", rich_markup_mode="rich"
)

_CONFIG = typer.Option("--config", metavar="FILE", help="Look at this file alone.")


@app.command()
def show(
    mountpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="MOUNTPOINT",
            help="A mount, or where one is to be. Default: what is for all mounts.",
            show_default=False,
        ),
    ] = None,
    *,
    config_file: Annotated[Path | None, _CONFIG] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Show what is in force and where each value comes from.

    Of a mount: what its daemon uses. Else: what `dedupfs mount` would use, typed as here.
    """
    live = _live(mountpoint) if mountpoint is not None and config_file is None else None
    found = live or settings.document(mountpoint, config_file, os.environ)
    found = {"mounted": live is not None, **found}
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)


@app.command()
def path(*, config_file: Annotated[Path | None, _CONFIG] = None) -> None:
    """Show the files that count, one a line, the stronger later."""
    for candidate in config.candidates(config_file, os.environ):
        typer.echo(f"{candidate}" + ("" if candidate.exists() else "  (missing)"))


@app.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Default: the files that count.", show_default=False),
    ] = None,
) -> None:
    """Check a configuration file; what is wrong is one line, exit status 1."""
    files = config.load_all(file, os.environ)
    for each in files:
        for layer in (each.common, *map(each.layer, each.by_mountpoint)):
            values = {name: setting.value for name, setting in layer.items()}
            sources = {name: setting.source for name, setting in layer.items()}
            for line in MountOptions(Path("/"), Path("/")).changed(values, sources).warnings():
                typer.echo(f"dedupfs: warning: {line}", err=True)
        count = len(each.common) + sum(map(len, each.by_mountpoint.values()))
        typer.echo(f"{each.path}: {count} options, {len(each.by_mountpoint)} mount points, fine")
    if not files:
        typer.echo("there is no configuration file")


@app.command()
def example() -> None:
    """Print a configuration file with every option, its default and what it is for."""
    typer.echo(config.example(), nl=False)


def _live(mountpoint: Path) -> dict[str, object] | None:
    mount = mounts.mount_at(mounts.resolve(mountpoint))
    if mount is None or not mount.is_dedupfs or mounts.is_stale(mount):
        return None
    found = client.ask(mount.store, "options")
    if found is None:
        raise MountError(f"{mountpoint}: its daemon does not answer")
    return found


def _print(document: dict[str, object]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    place = document["mountpoint"] or "any mount point"
    now = "in force" if document["mounted"] else "not mounted: what a mount would use"
    table = Table(title=Text(f"{place} ({now})", style="bold"), title_justify="left")
    table.add_column("option", style="cyan", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    options = document["options"]
    assert isinstance(options, dict), "settings.document"
    for name in OPTIONS:
        if name in options:
            value, source = options[name]["value"], options[name]["source"]
            table.add_row(name, Text(value), Text(source, style="dim" * (source == "default")))
    Console().print(table)
