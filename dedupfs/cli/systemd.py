"""`dedupfs systemd`: makes, shows, installs and removes the service of a mount."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from dedupfs.cli.mount_flags import Flags, MountCommand, takes_mount_flags
from dedupfs.core.errors import MountError
from dedupfs.service import mounts, settings, systemd

_RUNNING: Final = Path("/run/systemd/system")  # sd_booted(3)

_EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs systemd install --user ~/.cache/modelscope/hub/tmp --capacity 200G --now[/cyan]
a service of yours, running from now on (loginctl enable-linger keeps it when you log out)

[cyan]dedupfs systemd install /data/cache --store /data/store --allow-other[/cyan]
a service of the machine, as root

[cyan]dedupfs systemd install /data/cache --print[/cyan]
only show the unit
"""

app = typer.Typer(name="systemd", help="Mounts as services of systemd.", rich_markup_mode="rich")

_Mountpoint = Annotated[
    Path, typer.Argument(metavar="MOUNTPOINT", help="Where it mounts.", show_default=False)
]
_User = Annotated[bool, typer.Option("--user", help="A service of this user, not the machine's.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


@app.command(cls=MountCommand, epilog=_EPILOG)
@takes_mount_flags
def install(
    mountpoint: _Mountpoint,
    *,
    user: _User = False,
    now: Annotated[bool, typer.Option("--now", help="Enable it, and start it at once.")] = False,
    print_it: Annotated[bool, typer.Option("--print", help="Only print the unit.")] = False,
    dry_run: _DryRun = False,
    flags: Flags,
) -> None:
    """Make the service that mounts MOUNTPOINT at boot, or at log-in with --user.

    The flags of `dedupfs mount` go into it as typed; what comes from configuration files is read
    when it starts. The environment of this shell does not count there.
    """
    from dedupfs.cli import mounting  # noqa: PLC0415

    options = mounting.options(mountpoint, flags.texts, flags.lists, config_file=flags.config)
    chosen = flags.config or settings.parse_option_list(",".join(flags.lists)).config
    config = ["--config", str(mounts.resolve(chosen))] if chosen else []
    unit = systemd.make_unit(
        options.mountpoint,
        options.store,
        _program(),
        [*config, *mounting.retyped(options)],
        for_user=user,
    )
    if print_it:
        typer.echo(unit.text, nl=False)
        return
    path = systemd.folder(os.environ, for_user=user) / unit.name
    if dry_run:
        typer.echo(f"would write {path}")
    else:
        _write(path, unit.text)
        typer.echo(f"wrote {path}")
    _systemctl(["daemon-reload"], user=user, dry_run=dry_run)
    start = ["enable", "--now", unit.name]
    if now:
        _systemctl(start, user=user, dry_run=dry_run)
    else:
        typer.echo("start it with: " + _line(_command(start, user=user)))


@app.command()
def uninstall(mountpoint: _Mountpoint, *, user: _User = False, dry_run: _DryRun = False) -> None:
    """Stop the service of MOUNTPOINT, and remove it. The store stays."""
    name = systemd.unit_name(mounts.resolve(mountpoint))
    path = systemd.folder(os.environ, for_user=user) / name
    if not path.is_file():
        raise MountError(f"{path} does not exist: nothing to uninstall")
    _systemctl(["disable", "--now", name], user=user, dry_run=dry_run)
    if dry_run:
        typer.echo(f"would remove {path}")
    else:
        try:
            path.unlink()
        except OSError as error:
            raise MountError(f"{path}: {error.strerror}") from None
        typer.echo(f"removed {path}")
    _systemctl(["daemon-reload"], user=user, dry_run=dry_run)


def _program() -> list[str]:
    script = Path(sys.executable).with_name("dedupfs")
    if os.access(script, os.X_OK):
        return [str(script)]
    return [sys.executable, "-P", "-m", "dedupfs.cli"]


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        path.chmod(0o644)
    except OSError as error:
        hint = " (as root, or with --user)" if isinstance(error, PermissionError) else ""
        raise MountError(f"{path}: {error.strerror}{hint}") from None


def _command(words: list[str], *, user: bool) -> list[str]:
    return ["systemctl", *(["--user"] if user else []), *words]


def _line(command: list[str]) -> str:
    import shlex  # noqa: PLC0415

    return shlex.join(command)


def _systemctl(words: list[str], *, user: bool, dry_run: bool) -> None:
    command = _command(words, user=user)
    if dry_run:
        typer.echo(f"would run {_line(command)}")
    elif not _RUNNING.exists() or shutil.which("systemctl") is None:
        typer.echo(f"systemd does not run here; where it does: {_line(command)}")
    else:
        done = subprocess.run(  # noqa: S603 - our own words
            command, check=False, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise MountError(f"{_line(command)}: {' '.join(done.stderr.split())}")
