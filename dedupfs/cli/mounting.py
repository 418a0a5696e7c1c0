"""From command-line words to a mount: used by `dedupfs mount` and by mount(8)'s helper."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from dedupfs.cli.errors import UsageError
from dedupfs.core.errors import MountError
from dedupfs.service import config, preflight, settings
from dedupfs.service.options import OPTIONS
from dedupfs.service.schema import BadOption

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dedupfs.service.options import MountOptions


def options(
    mountpoint: Path,
    flags: Mapping[str, str],
    lists: Sequence[str] = (),
    *,
    config_file: Path | None = None,
) -> MountOptions:
    """Return the options of a mount, the environment and configuration files counted in.

    Raises UsageError for what was typed, BadOption for what a file or the environment says. What
    is allowed but hardly meant is told on stderr.
    """
    try:
        asked = settings.typed(flags, lists, config_file=config_file)
    except BadOption as error:
        raise UsageError(str(error)) from None
    found = settings.resolve(mountpoint, asked, os.environ)
    for line in (*config.misspelt_variables(os.environ), *found.warnings()):
        typer.echo(f"dedupfs: warning: {line}", err=True)
    return found


def retyped(options: MountOptions) -> list[str]:
    """Return flags that ask for what was typed, paths absolute; --foreground left out."""
    texts = options.typed()
    words: list[str] = []
    for name, option in OPTIONS.items():
        if name == "foreground" or not options.sources.get(name, "").startswith("-"):
            continue
        if option.is_switch:
            words.append(option.flag if texts[name] == "true" else f"--no-{name}")
        else:
            # -o is what takes options of FUSE.
            words += ["-o" if name == "fuse-options" else option.flag, texts[name]]
    return words


def mount(options: MountOptions) -> int:
    """Mount as the options say; return the exit code, raise MountError when it failed."""
    try:
        return _mount(options)
    except MountError:
        if options.if_mounted != "ok":
            raise
        from dedupfs.service import launch  # noqa: PLC0415

        pid = launch.await_other(options)
        if pid is None:
            raise
        typer.echo(f"{options.mountpoint} is mounted already (pid {pid})")
        return 0


def _mount(options: MountOptions) -> int:
    prepared = preflight.prepare(options)
    if not prepared.foreground:
        from dedupfs.service import launch  # noqa: PLC0415

        launch.start(prepared)
        return 0
    from dedupfs.service import daemon  # noqa: PLC0415 - FUSE, LMDB, numpy, trio

    return daemon.run(replace(prepared, foreground=True), _complain)


def _complain(failure: str | None) -> None:
    if failure is not None:
        raise MountError(failure)
