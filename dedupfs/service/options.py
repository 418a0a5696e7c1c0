"""The options of a mount, each declared once. Pure: reads no file, no environment."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypedDict, cast

from dedupfs.core import quantities
from dedupfs.core.policies import POLICIES
from dedupfs.core.types import IoMode
from dedupfs.service import fuse_options
from dedupfs.service.schema import (
    BadOption,
    Kind,
    Option,
    above_zero,
    choice,
    declared_option,
    one_of,
    option,
    parse_address,
    parse_switch,
    show_switch,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dedupfs.core.quantities import MinFree

CHECKPOINT_INTERVAL_S: Final = 5.0
CAPACITY_USEFUL_BYTES: Final = 16 << 20


def _parse_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(text)
    return Path(text).expanduser()


def _parse_count(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text.strip()):
        raise ValueError(text)
    return int(text)


_PATH: Final = Kind("PATH", "a path", _parse_path, example="/data/dedupfs")
_SWITCH: Final = Kind("true|false", "true or false", parse_switch, show_switch)
_SIZE: Final = Kind(
    "SIZE",
    "a size above 0, such as 200G",
    above_zero(quantities.parse_size),
    quantities.typed_size,
    example="200G",
)
_MIN_FREE: Final = Kind(
    "SIZE|PERCENT",
    "a size or a share, such as 20G or 5%",
    quantities.parse_min_free,
    quantities.typed_min_free,
    example="5%",
)
_COUNT: Final = Kind("N", "a whole number above 0", above_zero(_parse_count), example="1000000")
_MARK: Final = Kind(
    "PERCENT",
    "a share above 0 and up to 100%, such as 90% or 0.9",
    above_zero(quantities.parse_fraction),
    quantities.typed_fraction,
)
_TIME: Final = Kind(
    "TIME",
    "a time above 0: seconds, or such as 10m, 2h, 7d",
    above_zero(quantities.parse_duration),
    quantities.typed_duration,
    example="7d",
)
_ADDRESS: Final = Kind(
    "HOST:PORT", "HOST:PORT, or a port of the loopback", parse_address, example="127.0.0.1:9100"
)
_STORE: Final = Option(
    "store",
    cast("Kind[object]", _PATH),
    None,
    "Where the content is kept; made if missing. One mount at a time may use a store.",
    shown_default=".NAME.dedupfs beside the mount point NAME",
)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """One mount: all paths absolute. Each field but the first and last declares an option.

    `sources` says where a value came from, by the option's name; what is missing is a default.
    """

    mountpoint: Path
    store: Path = field(metadata={"dedupfs": _STORE})
    io: IoMode = option(
        "io",
        choice(IoMode, IoMode),
        IoMode.AUTO,
        "writeback: the kernel gathers small writes. passthrough: it does not, and may read files "
        "directly where it can. auto: what suits this version best.",
    )
    allow_other: bool = option(
        "allow-other",
        _SWITCH,
        default=False,
        text="Let other users in, by the files' modes. As user this needs user_allow_other in "
        "/etc/fuse.conf.",
    )
    foreground: bool = option(
        "foreground",
        _SWITCH,
        default=False,
        text="Stay in the foreground, log to stderr; end with Ctrl-C.",
    )
    verify_reads: bool = option(
        "verify-reads",
        _SWITCH,
        default=False,
        text="Check what comes from the disk against its fingerprints; what rotted is an I/O "
        "error, never wrong bytes.",
    )
    checkpoint_interval_s: float = option(
        "checkpoint-interval",
        _TIME,
        CHECKPOINT_INTERVAL_S,
        "How much a power cut may take of what no fsync asked for.",
    )
    capacity_bytes: int | None = option(
        "capacity",
        _SIZE,
        None,
        "Keep the content within so many bytes of disk; old units go when it is nearly reached.",
        live=True,
        optional=True,
    )
    min_free: MinFree | None = option(
        "min-free",
        _MIN_FREE,
        None,
        "Leave so much of the store's file system free. Named, it is a limit: what has no room is "
        "refused. By default it is a goal: old units go, nothing is refused.",
        live=True,
        optional=True,
        shown_default="5%, as a goal",
    )
    max_files: int | None = option(
        "max-files", _COUNT, None, "Keep at most so many files.", live=True, optional=True
    )
    low_mark: float = option(
        "low-mark", _MARK, 0.90, "Make room until this share of each limit.", live=True
    )
    high_mark: float = option(
        "high-mark", _MARK, 0.95, "Make room from this share of a limit on.", live=True
    )
    evict_depth: int = option(
        "evict-depth", _COUNT, 1, "What goes as a whole: the entries so deep below the mount point."
    )
    ttl_s: float | None = option(
        "ttl", _TIME, None, "Remove units that nobody used for so long.", live=True, optional=True
    )
    policy: str = option("policy", one_of(*POLICIES), "lru", "Which units go first.", live=True)
    owners: str = option(
        "owners",
        one_of("protect", "ignore"),
        "protect",
        "protect: folders of processes that live do not go. ignore: they may.",
        live=True,
    )
    auto_gc_s: float | None = option(
        "auto-gc",
        _TIME,
        None,
        "Remove folders of dead processes when so long has passed. Without TIME: 10m.",
        live=True,
        optional=True,
        implied="10m",
    )
    metrics: str | None = option(
        "metrics",
        _ADDRESS,
        None,
        "Serve metrics for Prometheus there. A port alone is one of the loopback.",
        optional=True,
    )
    log_to: str | None = option(
        "log-to",
        one_of("stderr", "file", "journald"),
        None,
        "Where the daemon logs to.",
        shown_default="file, in the foreground stderr",
    )
    log_file: Path | None = option(
        "log-file",
        _PATH,
        None,
        "The daemon's log; with another --log-to, this as well.",
        shown_default="dedupfs.log in the store",
    )
    log_format: str = option(
        "log-format", one_of("text", "json"), "text", "Lines for people, or JSON documents."
    )
    log_level: str = option(
        "log-level",
        one_of("debug", "info", "warning", "error"),
        "info",
        "What is worth a line in the log.",
    )
    if_mounted: str = option(
        "if-mounted",
        one_of("fail", "ok"),
        "fail",
        "ok: when this store is mounted there already, that will do. For scripts that all ranks "
        "run at once.",
    )
    extra: tuple[str, ...] = option("fuse-options", fuse_options.LIST, (), "As -o, for FUSE alone.")
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def log_path(self) -> Path:
        """Where a daemon in the background logs to."""
        return self.log_file or self.store / "dedupfs.log"

    @property
    def log_places(self) -> list[str]:
        """Where the daemon logs to: of stderr, file, journald."""
        chosen = self.log_to or ("stderr" if self.foreground else "file")
        return [chosen] + (["file"] if self.log_file and chosen != "file" else [])

    def typed(self) -> dict[str, str]:
        """Return all options by name, as they would be typed."""
        return {
            each.name: each.show(getattr(self, attribute)) for attribute, each in _FIELDS.items()
        }

    def document(self) -> dict[str, object]:
        """Return what is in force, as typed, and where it came from: for the control socket."""
        return {
            "mountpoint": str(self.mountpoint),
            "options": {
                each.name: {
                    "value": each.tell(getattr(self, attribute)),
                    "source": self.sources.get(each.name, "default"),
                }
                for attribute, each in _FIELDS.items()
            },
        }

    def to_json(self) -> str:
        """Return text for `from_json`: how the command hands this to the daemon's process."""
        shown = {
            each.name: each.show(value)
            for attribute, each in _FIELDS.items()
            if (value := getattr(self, attribute)) is not None
        }
        return json.dumps(
            {"mountpoint": str(self.mountpoint), "options": shown, "sources": dict(self.sources)}
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the options that `to_json` wrote."""
        raw = json.loads(text)
        values = {
            _ATTRIBUTES[name]: OPTIONS[name].parse(shown, name)
            for name, shown in raw["options"].items()
        }
        made = {"mountpoint": Path(raw["mountpoint"]), "sources": raw["sources"], **values}
        return cls(**cast("_Values", made))

    def changed(self, values: Mapping[str, object], sources: Mapping[str, str]) -> Self:
        """Return these options with other values, by option name, as `Option.parse` gave them.

        Raises BadOption when they do not go together.
        """
        changes: dict[str, object] = {_ATTRIBUTES[name]: value for name, value in values.items()}
        changes["sources"] = {**self.sources, **sources}
        made = dataclasses.replace(self, **cast("_Values", changes))
        made.check()
        return made

    def check(self) -> None:
        """Raise BadOption when values do not go together."""
        if self.low_mark >= self.high_mark:
            low, high = (
                f"{name} {OPTIONS[name].show(value)} ({self.sources.get(name, 'default')})"
                for name, value in (("low-mark", self.low_mark), ("high-mark", self.high_mark))
            )
            raise BadOption(f"{low} must be below {high}")

    def warnings(self) -> list[str]:
        """Return a line for each value that is allowed, but hardly meant."""
        capacity = self.capacity_bytes
        if capacity is None or capacity >= CAPACITY_USEFUL_BYTES:
            return []
        little = f"{quantities.size(capacity)} is little: what does not fit is refused"
        return [f"capacity {quantities.typed_size(capacity)}: {little}"]


class _Values(TypedDict, total=False):
    """Fields of MountOptions by name, for the type checker; values come from the schema."""

    mountpoint: Path
    store: Path


_FIELDS: Final[Mapping[str, Option]] = {
    each.name: declared
    for each in dataclasses.fields(MountOptions)
    if (declared := declared_option(each.metadata)) is not None
}
OPTIONS: Final[Mapping[str, Option]] = {each.name: each for each in _FIELDS.values()}
LIVE: Final[Mapping[str, Option]] = {name: each for name, each in OPTIONS.items() if each.is_live}
_ATTRIBUTES: Final = {each.name: attribute for attribute, each in _FIELDS.items()}
