"""What a mount is asked to do, and the `-o` lists of mount(8). Pure: no look at the disk."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from dedupfs.core.errors import MountError
from dedupfs.core.types import IoMode

# Handed to FUSE as they are (libfuse lib/mount.c, `fuse_mount_opts`).
_FUSE_FLAGS: Final = frozenset(
    {
        "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "async", "sync", "dirsync",
        "atime", "noatime", "nodiratime", "default_permissions",
    }
)  # fmt: skip
# No max_read=: libfuse ends the session unless its init handler sets the same, and pyfuse3 has none.
_FUSE_VALUES: Final = frozenset({"context", "fscontext", "defcontext", "rootcontext"})
# Meant for mount(8) and systemd, which hand them on all the same.
_NOISE: Final = re.compile(
    r"defaults|auto|noauto|users?|nousers?|user=.*|owner|group|nofail|_netdev|_rnetdev|comment=.*"
    r"|relatime|norelatime|strictatime|nostrictatime|diratime|lazytime|nolazytime"
    r"|[xX]-.*"
)


CHECKPOINT_INTERVAL_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class MountOptions:
    """One mount: all paths absolute. `extra` goes to FUSE as `-o` options."""

    mountpoint: Path
    store: Path
    io: IoMode = IoMode.AUTO
    allow_other: bool = False
    foreground: bool = False
    verify_reads: bool = False
    checkpoint_interval_s: float = CHECKPOINT_INTERVAL_S
    log_file: Path | None = None
    extra: tuple[str, ...] = ()

    @property
    def log_path(self) -> Path:
        """Where a daemon in the background logs to."""
        return self.log_file or self.store / "dedupfs.log"

    def to_json(self) -> str:
        """Return text for `from_json`: how the command hands this to the daemon's process."""
        return json.dumps(
            {
                "mountpoint": str(self.mountpoint),
                "store": str(self.store),
                "io": str(self.io),
                "allow_other": self.allow_other,
                "foreground": self.foreground,
                "verify_reads": self.verify_reads,
                "checkpoint_interval_s": self.checkpoint_interval_s,
                "log_file": str(self.log_file) if self.log_file else None,
                "extra": list(self.extra),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the options that `to_json` wrote."""
        raw = json.loads(text)
        return cls(
            mountpoint=Path(raw["mountpoint"]),
            store=Path(raw["store"]),
            io=IoMode(raw["io"]),
            allow_other=bool(raw["allow_other"]),
            foreground=bool(raw["foreground"]),
            verify_reads=bool(raw["verify_reads"]),
            checkpoint_interval_s=float(raw["checkpoint_interval_s"]),
            log_file=Path(raw["log_file"]) if raw["log_file"] else None,
            extra=tuple(raw["extra"]),
        )


@dataclass(frozen=True, slots=True)
class OptionList:
    """What an `-o` list asks for; None where it says nothing."""

    io: IoMode | None = None
    store: str | None = None
    log_file: str | None = None
    allow_other: bool = False
    foreground: bool = False
    verify_reads: bool = False
    checkpoint_interval_s: float | None = None
    extra: tuple[str, ...] = ()


def parse_option_list(text: str) -> OptionList:
    r"""Return what a list as in `mount -o` asks for; `\,` is a comma inside a value.

    Raises MountError, naming the option, for one that is not known.
    """
    found = OptionList()
    for item in re.split(r"(?<!\\),", text):
        option = item.strip().replace("\\,", ",")
        if option and not _NOISE.fullmatch(option):
            found = _with_option(found, option)
    return found


def _with_option(found: OptionList, option: str) -> OptionList:
    name, has_value, value = option.partition("=")
    if option == "allow_other":
        return replace(found, allow_other=True)
    if option == "foreground":
        return replace(found, foreground=True)
    if option == "verify_reads":
        return replace(found, verify_reads=True)
    if has_value and name in {"io", "store", "log_file", "checkpoint_interval"}:
        return _with_value(found, name, value)
    if option in _FUSE_FLAGS or (has_value and name in _FUSE_VALUES):
        return replace(found, extra=(*found.extra, option))
    raise MountError(f"unknown mount option {option!r}")


def _with_value(found: OptionList, name: str, value: str) -> OptionList:
    if not value:
        raise MountError(f"mount option {name}= needs a value")
    if name == "store":
        return replace(found, store=value)
    if name == "log_file":
        return replace(found, log_file=value)
    if name == "checkpoint_interval":
        return replace(found, checkpoint_interval_s=_interval(value))
    try:
        return replace(found, io=IoMode(value))
    except ValueError:
        choices = ", ".join(IoMode)
        raise MountError(f"mount option io={value}: want one of {choices}") from None


def is_interval(seconds: float) -> bool:
    """Tell whether this can be the time between two checkpoints."""
    return math.isfinite(seconds) and seconds > 0


def _interval(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not is_interval(seconds):
        raise MountError(f"mount option checkpoint_interval={value}: want seconds, above 0")
    return seconds
