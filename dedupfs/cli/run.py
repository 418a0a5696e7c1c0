"""`dedupfs run`: mount, run a command, say what was saved, unmount, exit as the command did."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli.errors import INTERRUPTED, UsageError
from dedupfs.cli.mount_flags import Flags  # noqa: TC001 - typer reads annotations
from dedupfs.core.errors import DedupfsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dedupfs.service.options import MountOptions
    from dedupfs.service.sharing import SharedMount

EPILOG: Final = """
[bold]Examples[/bold]

[cyan]dedupfs run --over ~/.cache/modelscope/hub/tmp -- torchrun --nproc-per-node 4 train.py[/cyan]
the four ranks' temp folders take the space of one

[cyan]dedupfs run --over ~/.cache/huggingface --capacity 200G -- python prepare.py[/cyan]
with mount options

[cyan]for rank in 0 1 2 3; do dedupfs run --over /cache -- python work.py $rank & done; wait[/cyan]
the first one mounts, the last one unmounts

[bold]Exit status[/bold]

that of COMMAND, 128+n when signal n ended it; 127 no such command, 126 it cannot be started; \
1 the mount failed, or not all could be put on disk, one line on stderr says why; 2 wrong arguments
"""


def run(
    command: Annotated[
        list[str],
        typer.Argument(metavar="-- COMMAND [ARGUMENT]...", help="What to run.", show_default=False),
    ],
    *,
    over: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR",
            help="Mount over this folder, which is empty or made; more than once for several.",
        ),
    ],
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="How long to wait for processes of COMMAND that outlive it. Default: 10. What "
            "they still use then stays mounted, for the next run or `dedupfs umount` to end.",
            show_default=False,
        ),
    ] = 10.0,
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy",
            help="Then take the mount out of the tree instead; the daemon ends with its last user.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
    flags: Flags,
) -> None:
    """Mount over DIR, run COMMAND, report the saving on stderr, unmount.

    A DIR that is mounted already is used as it is: by another run, then the last one unmounts; by
    `dedupfs mount`, then it stays mounted. Signals are handed to COMMAND.

    A DIR with files in it is refused; `dedupfs import DIR` takes them into the store.
    """
    from dedupfs.cli import mounting  # noqa: PLC0415

    options = [
        mounting.options(path, flags.texts, flags.lists, config_file=flags.config) for path in over
    ]
    if len({one.store for one in options}) < len(options):
        raise UsageError("--store goes with one --over: several mounts cannot share a store")
    say: Callable[[str], None] = (
        (lambda _text: None) if quiet else (lambda text: typer.echo(f"dedupfs: {text}", err=True))
    )
    raise typer.Exit(_run(command, options, say, _Leaving(wait, lazy=lazy)))


class _Leaving:
    """How to end the mounts; what went wrong."""

    def __init__(self, wait_s: float, *, lazy: bool) -> None:
        self.failed = False
        self._wait_s = wait_s
        self._lazy = lazy

    def end(self, mount: SharedMount, say: Callable[[str], None]) -> None:
        try:
            mount.end(wait_s=self._wait_s, lazy=self._lazy, told=say)
        except DedupfsError as error:
            self.failed = True
            typer.echo(f"dedupfs: {error}", err=True)
        except KeyboardInterrupt:
            say(f"{mount.mountpoint} stays mounted: `dedupfs umount {mount.mountpoint}` ends it")


def _run(
    command: Sequence[str],
    options: Sequence[MountOptions],
    say: Callable[[str], None],
    leaving: _Leaving,
) -> int:
    from dedupfs.service import running, sharing  # noqa: PLC0415

    code, by_ctrl_c = 0, False
    try:
        with running.ending_signals(), contextlib.ExitStack() as stack:
            held: list[tuple[SharedMount, Mapping[str, object]]] = []
            for one in options:
                mount = sharing.take(one)
                stack.callback(leaving.end, mount, say)
                held.append((mount, mount.status()))
            code, by_ctrl_c = running.run(command)
            for mount, before in held:
                _report(mount, before, say, leaving)
    except running.CannotRun as error:
        typer.echo(f"dedupfs: {error}", err=True)
        return error.code
    except running.Stopped as stopped:
        return running.SIGNALLED + stopped.number
    except KeyboardInterrupt:
        return INTERRUPTED
    if by_ctrl_c:
        _die_of_ctrl_c()
    return code or int(leaving.failed)


def _report(
    mount: SharedMount, before: Mapping[str, object], say: Callable[[str], None], leaving: _Leaving
) -> None:
    from dedupfs.cli.render import saving  # noqa: PLC0415
    from dedupfs.core.quantities import size  # noqa: PLC0415

    try:
        after = mount.status()
    except DedupfsError as error:
        leaving.failed = True
        typer.echo(f"dedupfs: {error}", err=True)
        return

    written = {key: _count(after, key) - _count(before, key) for key in _INGESTED}
    total = sum(written.values())
    if total > 0:
        new = written["unique_bytes"]
        say(f"{mount.mountpoint}: {size(total)} written, {size(new)} of it new: "
            f"saved {saving(total, new)}")  # fmt: skip
    logical = _number(after.get("logical_bytes"))
    # What was removed just now is freed in a moment.
    allocated = _number(after.get("allocated_bytes")) - _number(after.get("pending_free_bytes"))
    say(f"{mount.mountpoint}: holds {_number(after.get('files')):,} files of {size(logical)}, "
        f"{size(allocated)} on disk")  # fmt: skip


_INGESTED: Final = ("followed_bytes", "matched_bytes", "unique_bytes", "zero_bytes")


def _count(document: Mapping[str, object], key: str) -> int:
    ingest = document.get("ingest")
    return _number(ingest.get(key)) if isinstance(ingest, dict) else 0


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _die_of_ctrl_c() -> None:
    """End as a command does that Ctrl-C ended: a shell script stops at that, not at code 130."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
