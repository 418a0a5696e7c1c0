"""From command-line words to a mount: used by `dedupfs mount` and by mount(8)'s helper."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dedupfs.cli.errors import UsageError
from dedupfs.core.errors import MountError
from dedupfs.core.types import IoMode
from dedupfs.service import preflight
from dedupfs.service.mounts import resolve
from dedupfs.service.options import (
    CHECKPOINT_INTERVAL_S,
    MountOptions,
    OptionList,
    is_interval,
    parse_option_list,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NOTHING: Final = OptionList()


def parse_lists(lists: Sequence[str]) -> OptionList:
    """Return what the `-o` lists ask for together; raises UsageError."""
    try:
        return parse_option_list(",".join(lists))
    except MountError as error:
        raise UsageError(str(error)) from None


def merge(  # noqa: PLR0913 - one parameter an option
    mountpoint: Path,
    listed: OptionList = _NOTHING,
    *,
    store: Path | None = None,
    io: IoMode | None = None,
    log_file: Path | None = None,
    allow_other: bool = False,
    foreground: bool = False,
    verify_reads: bool = False,
    checkpoint_interval_s: float | None = None,
) -> MountOptions:
    """Return the options of a mount; an option of its own wins over the same in an `-o` list."""
    if checkpoint_interval_s is not None and not is_interval(checkpoint_interval_s):
        raise UsageError(f"--checkpoint-interval {checkpoint_interval_s:g}: want seconds, above 0")
    resolved = resolve(mountpoint)
    chosen = store or listed.store
    log_path = log_file or listed.log_file
    return MountOptions(
        mountpoint=resolved,
        store=resolve(chosen) if chosen else preflight.default_store(resolved),
        io=io or listed.io or IoMode.AUTO,
        allow_other=allow_other or listed.allow_other,
        foreground=foreground or listed.foreground,
        verify_reads=verify_reads or listed.verify_reads,
        checkpoint_interval_s=(
            checkpoint_interval_s or listed.checkpoint_interval_s or CHECKPOINT_INTERVAL_S
        ),
        log_file=resolve(log_path) if log_path else None,
        extra=listed.extra,
    )


def mount(options: MountOptions) -> int:
    """Mount as the options say; return the exit code, raise MountError when it failed."""
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
