"""The `dedupfs` command. What is slow to import is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import Annotated, Final

import typer

from dedupfs.cli import (
    bench,
    config,
    doctor,
    du,
    errors,
    estimate,
    evict,
    fsck,
    importing,
    report,
    run,
    stat,
    status,
    steer,
    systemd,
    top,
)
from dedupfs.cli.mount_flags import Flags, MountCommand, takes_mount_flags

_DESCRIPTION: Final = """
Mount a directory that keeps equal bytes once.

dedupfs is a FUSE file system for caches of machine-learning data. What several processes write \
into it is compared while it is written; equal content takes space on disk once, at every moment, \
at any offset, in files that differ elsewhere. All content lies in a store, a directory outside of \
the mount point, and stays there when the file system is unmounted.
"""

_EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs mount ~/.cache/modelscope/hub/tmp[/cyan]
with the store in ~/.cache/modelscope/hub/.tmp.dedupfs

[cyan]dedupfs run --over ~/.cache/modelscope/hub/tmp -- torchrun train.py[/cyan]
mount, run, say what was saved, unmount

[cyan]dedupfs mount /data/cache --store /data/store --allow-other[/cyan]
for all users of the machine

[cyan]dedupfs status[/cyan]
all mounts: what they hold, what they take on disk, what is saved

[cyan]dedupfs status /data/cache --json[/cyan]
the same for programs, sizes in bytes

[cyan]dedupfs umount /data/cache[/cyan]
returns when all is on disk

[bold]In /etc/fstab[/bold]

[cyan]/data/store  /data/cache  fuse.dedupfs  allow_other,nofail  0  0[/cyan]
after [cyan]ln -s "$(command -v mount.dedupfs)" /sbin/mount.fuse.dedupfs[/cyan]

[bold]Exit status[/bold]

0 done; 1 refused or failed, one line on stderr says why; 2 wrong arguments

[bold]Environment[/bold]

DEDUPFS_CAPACITY and so on set the options of mounts, see [cyan]dedupfs mount --help[/cyan]; \
DEDUPFS_CONFIG names the configuration file; DEDUPFS_TRACEBACK=1 shows where in the program an \
error comes from
"""

_MOUNT_EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs mount ~/cache[/cyan]
in the background, with the store in ~/.cache.dedupfs

[cyan]dedupfs mount /data/cache --store /data/store -o ro,noexec[/cyan]
nobody may write or start programs

[cyan]dedupfs mount ~/cache --capacity 200G --if-mounted ok[/cyan]
in a script that all ranks run: one mounts, the others go on

[cyan]exec dedupfs mount /cache --store /store --foreground[/cyan]
as a service, or as the only process of a container
"""

app = typer.Typer(
    name="dedupfs",
    help=_DESCRIPTION,
    epilog=_EPILOG,
    rich_markup_mode="rich",
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 - slow to import

    try:
        return metadata.version("dedupfs")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the flag
    if wanted:
        typer.echo(f"dedupfs {_version()}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    del version  # its callback has acted


@app.command(epilog=_MOUNT_EPILOG, cls=MountCommand)
@takes_mount_flags
def mount(
    mountpoint: Annotated[
        Path, typer.Argument(metavar="MOUNTPOINT", help="An empty directory.", show_default=False)
    ],
    *,
    flags: Flags,
) -> None:
    """Mount MOUNTPOINT, in the background; returns when the mount answers.

    A mount point that is not empty is refused. A stale mount whose daemon died is cleared.

    The mount ends with `dedupfs umount`, umount(8), fusermount3 -u, or a SIGTERM to its daemon.

    Options also come from the environment (DEDUPFS_CAPACITY for --capacity) and from TOML files
    (capacity = "200G"); `dedupfs config show` says what counts.
    """
    from dedupfs.cli import mounting  # noqa: PLC0415

    options = mounting.options(mountpoint, flags.texts, flags.lists, config_file=flags.config)
    raise typer.Exit(mounting.mount(options))


@app.command()
def umount(
    mountpoint: Annotated[
        Path, typer.Argument(metavar="MOUNTPOINT", help="A dedupfs mount.", show_default=False)
    ],
    *,
    stale: Annotated[
        bool,
        typer.Option("--stale", help="Clear it if its daemon died; leave one that lives."),
    ] = False,
) -> None:
    """Unmount MOUNTPOINT; returns when all is on disk and the daemon has ended.

    When it is busy, nothing is unmounted and the processes that use it are listed.

    A stale mount whose daemon died is cleared.
    """
    from dedupfs.service import unmounting  # noqa: PLC0415

    mountpoint = mountpoint.absolute()
    os.chdir("/")  # from inside the mount this process itself would keep it busy
    told = unmounting.clear_dead(mountpoint) if stale else unmounting.end_mount(mountpoint)
    if told:
        typer.echo(told)


app.command("status")(status.show_status)
app.command(epilog=du.EPILOG)(du.du)
app.command("stat")(stat.show_file)
app.command()(top.top)
app.command()(report.report)


@app.command()
def scrub(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MOUNTPOINT|STORE", help="A dedupfs mount, or a store.", show_default=False
        ),
    ],
    *,
    rate: Annotated[
        str | None,
        typer.Option(metavar="SIZE/s", help="Read at most so much a second, such as 50M."),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart/--resume",
            help="Start anew. Default: go on where an interrupted scrub was.",
            show_default=False,
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document at the end; sizes in bytes.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, only what is damaged.")
    ] = False,
) -> None:
    """Read all content from the disk and compare it with its fingerprints.

    On a mount, while it is in use, or on a store that is not mounted. Files that are damaged are
    listed; they read as I/O errors until the same content is written again.

    Exit status: 0 all well, 1 damage found, 2 it cannot be done.
    """
    from dedupfs.cli import scrub as command  # noqa: PLC0415
    from dedupfs.service.scrubbing import Request  # noqa: PLC0415

    request = Request(command.rate(rate) if rate is not None else None, restart)
    raise typer.Exit(command.run(path, request, as_json=as_json, quiet=quiet))


app.command(epilog=evict.EPILOG)(evict.evict)
app.command()(evict.gc)
app.command()(steer.why)
app.command()(steer.pin)
app.command()(steer.unpin)
app.command("set")(steer.set_options)
app.command(epilog=fsck.EPILOG)(fsck.fsck)
app.command(epilog=bench.EPILOG)(bench.bench)
app.command(cls=MountCommand, epilog=run.EPILOG)(takes_mount_flags(run.run))
app.command(epilog=estimate.EPILOG)(estimate.estimate)
app.command("import", epilog=importing.IMPORT_EPILOG)(importing.import_)
app.command(epilog=importing.EXPORT_EPILOG)(importing.export)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
app.add_typer(config.app)
app.add_typer(systemd.app)


def main() -> None:
    """Run the command line; errors become one line on stderr."""
    arguments = sys.argv[1:]
    # mount.fuse3(8) runs `dedupfs STORE MOUNTPOINT -o OPTS` for a mount of type fuse.dedupfs.
    if len(arguments) > 1 and arguments[0].startswith("/"):
        from dedupfs.cli import mount_helper  # noqa: PLC0415

        mount_helper.main()
        return
    sys.exit(
        errors.exit_code(
            lambda: app(standalone_mode=False, prog_name="dedupfs"),
            subcommand=_subcommand(arguments),
        )
    )


def _subcommand(arguments: list[str]) -> str:
    """Return the command that was typed, or "" if there is none of this name."""
    known = {
        each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands
    }
    known |= {
        each.typer_instance.info.name for each in app.registered_groups if each.typer_instance
    }
    return arguments[0] if arguments and arguments[0] in known else ""
