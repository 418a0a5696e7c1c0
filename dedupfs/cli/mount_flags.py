"""Flags for every option of a mount, made from the schema: `dedupfs mount` and `run` take them."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, ParamSpec, Protocol, TypeVar, cast

import typer
from typer.core import TyperCommand

from dedupfs.service.options import OPTIONS
from dedupfs.service.schema import BadOption, Option

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer._click.core import Context

P = ParamSpec("P")
R = TypeVar("R")

_RENAMED: Final = {"foreground": ("--foreground", "-f")}
_PANEL: Final = "Options of the mount"
_LIST_HELP: Final = (
    "The same options as in mount(8), with commas: capacity=200G,allow_other,config=FILE; ro, "
    "nosuid, nodev, noexec, noatime, sync, dirsync, context= and such go to FUSE; what fstab adds "
    "(defaults, nofail, _netdev, x-systemd.*) is skipped."
)


@dataclass(frozen=True, slots=True)
class Flags:
    """What was typed: texts by option name, `-o` lists, the configuration file."""

    texts: dict[str, str]
    lists: list[str]
    config: Path | None


class _Keywords(Protocol):
    def __call__(self, **arguments: object) -> object: ...


class MountCommand(TyperCommand):
    """A command with the flags of a mount. Lets flags that have an implied value go without."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:  # type: ignore[explicit-override]
        """Parse, with the implied values put in."""
        return super().parse_args(ctx, with_implied_values(args))


def with_implied_values(arguments: list[str]) -> list[str]:
    """Return the arguments with a value behind each flag that may go without one and does."""
    implied = {each.flag: each for each in OPTIONS.values() if each.implied is not None}
    found: list[str] = []
    for place, word in enumerate(arguments):
        if "--" in found:
            return [*found, *arguments[place:]]
        option = implied.get(word)
        has_value = option is not None and _is_value(option, arguments[place + 1 : place + 2])
        found.append(word if option is None or has_value else f"{word}={option.implied}")
    return found


def _is_value(option: Option, following: list[str]) -> bool:
    try:
        for word in following:
            option.parse(word, word)
    except BadOption:
        return False
    return bool(following)


def takes_mount_flags(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command a flag for each option; its parameter `flags` gets what was typed."""
    inner = cast("_Keywords", command)

    @functools.wraps(command)
    def run(**arguments: object) -> object:
        texts = {}
        for name in OPTIONS:
            value = arguments.pop(_parameter(name), None)
            if value is not None:
                texts[name] = str(value).lower() if isinstance(value, bool) else str(value)
        if arguments.pop("verbose", False):
            texts.setdefault("log-level", "debug")
        lists = cast("list[str] | None", arguments.pop("mount_option_lists", None))
        config = cast("Path | None", arguments.pop("config_file", None))
        return inner(**arguments, flags=Flags(texts, lists or [], config))

    own = inspect.signature(command, eval_str=True)
    kept = [each for name, each in own.parameters.items() if name != "flags"]
    parameters = [*kept, *_parameters()]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return cast("Callable[P, R]", run)


def _parameter(name: str) -> str:
    return f"mount_{name.replace('-', '_')}"


def _parameters() -> list[inspect.Parameter]:
    found = [
        _keyword(
            "config_file",
            Annotated[
                Path | None,
                typer.Option(
                    "--config",
                    metavar="FILE",
                    help="Options from this TOML file alone (DEDUPFS_CONFIG). Default: "
                    "~/.config/dedupfs/config.toml over /etc/dedupfs/config.toml.",
                    show_default=False,
                ),
            ],
        ),
        _keyword(
            "mount_option_lists",
            Annotated[
                list[str] | None,
                typer.Option("-o", metavar="OPTS", help=_LIST_HELP, show_default=False),
            ],
        ),
        _keyword(
            "verbose",
            Annotated[
                bool | None,
                typer.Option("--verbose", help="As --log-level debug.", show_default=False),
            ],
        ),
    ]
    # -o has FUSE's own options already.
    return found + [_flag(each) for each in OPTIONS.values() if each.name != "fuse-options"]


def _keyword(name: str, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _flag(option: Option) -> inspect.Parameter:
    default = option.shown_default or (
        "" if option.default is None else option.show(option.default)
    )
    if option.is_switch:
        negative = f"--no-{option.name}"
        names = _RENAMED.get(option.name, (option.flag,))
        shown = typer.Option(
            f"{names[0]}/{negative}", *names[1:], help=option.help, show_default=False,
            rich_help_panel=_PANEL,
        )  # fmt: skip
        return _keyword(_parameter(option.name), Annotated[bool | None, shown])

    def complete(incomplete: str) -> list[str]:
        return [each for each in option.kind.choices if each.startswith(incomplete)]

    shown = typer.Option(
        option.flag,
        metavar=option.kind.metavar,
        help=f"{option.help} Default: {default}." if default else option.help,
        show_default=False,
        autocompletion=complete,
        rich_help_panel=_PANEL,
    )
    return _keyword(_parameter(option.name), Annotated[str | None, shown])
