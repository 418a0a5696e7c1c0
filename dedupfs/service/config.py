"""Configuration files: where they lie, what they may hold. TOML, keys named as the flags."""

from __future__ import annotations

import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.service import mounts
from dedupfs.service.options import OPTIONS
from dedupfs.service.schema import BadOption, Option, did_you_mean, show_list

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM_FILE: Final = Path("/etc/dedupfs/config.toml")
VARIABLE: Final = "DEDUPFS_CONFIG"
MOUNTS: Final = "mounts"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and the place it came from."""

    value: object
    source: str


Layer = dict[str, Setting]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What a file sets: for all mounts, and for one mount point each."""

    path: Path
    common: Layer
    by_mountpoint: Mapping[Path, Layer]

    def layer(self, mountpoint: Path) -> Layer:
        """Return what it sets for a mount at `mountpoint` (resolved)."""
        return {**self.common, **self.by_mountpoint.get(mountpoint, {})}


def user_file(environ: Mapping[str, str]) -> Path:
    """Return the user's own file, by the XDG base directory specification."""
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path("~/.config").expanduser()) / "dedupfs/config.toml"


def candidates(chosen: Path | None, environ: Mapping[str, str]) -> list[Path]:
    """Return the files that count, weakest first: the named one alone, else machine and user."""
    named = chosen or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)
    if named is not None:
        return [named.expanduser()]
    return [SYSTEM_FILE, user_file(environ)]


def load_all(chosen: Path | None, environ: Mapping[str, str]) -> list[ConfigFile]:
    """Return the files that count and exist, weakest first; raises BadOption."""
    paths = candidates(chosen, environ)
    must_exist = len(paths) == 1
    return [load(path) for path in paths if must_exist or _is_there(path)]


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return (
            False  # HOME of another user, as `sudo -u` and containers leave it: none of his files
        )


def load(path: Path) -> ConfigFile:
    """Return a file's settings; raises BadOption, naming file and key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadOption(f"config file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(
            f'config file {path}: no TOML: {error}; words and sizes want quotes: capacity = "200G"'
        ) from None
    tables = document.pop(MOUNTS, {})
    if not isinstance(tables, dict):
        raise BadOption(f'config file {path}: {MOUNTS}: want tables such as [{MOUNTS}."/path"]')
    return ConfigFile(path, _layer(document, f"{path}: "), _by_mountpoint(path, tables))


def _by_mountpoint(path: Path, tables: Mapping[str, object]) -> dict[Path, Layer]:
    found: dict[Path, Layer] = {}
    for key, table in tables.items():
        header = f"[{MOUNTS}.{_quoted(key)}]"
        mountpoint = Path(key).expanduser()
        if not isinstance(table, dict) or not mountpoint.is_absolute():
            raise BadOption(
                f'config file {path}: {header}: want a table of an absolute path, [{MOUNTS}."/path"]'
            )
        found[mounts.resolve(mountpoint)] = _layer(table, f"{path}: {header} ")
    return found


def _layer(table: Mapping[str, object], place: str) -> Layer:
    layer = {}
    for key, raw in table.items():
        option = OPTIONS.get(key)
        if option is None:
            hint = did_you_mean(key, [*OPTIONS, MOUNTS]) or f"; known are {', '.join(OPTIONS)}"
            raise BadOption(f"{place}{key} = {_quoted(raw)}: unknown key{hint}")
        layer[key] = Setting(_value(option, raw, f"{place}{key}"), f"{place}{key}")
    return layer


def _value(option: Option, raw: object, place: str) -> object:
    said = f"{place} = {_quoted(raw)}"
    text = _text(option, raw)
    if text is None:
        raise BadOption(f"{said}: want {option.want}")
    value = option.parse(text, said)
    if isinstance(value, Path) and not value.is_absolute():
        raise BadOption(f"{said}: want an absolute path, or one from ~")
    return value


def _text(option: Option, raw: object) -> str | None:
    """Return the value as it would be typed; None when its type is wrong."""
    match raw:
        case bool():
            takes = option.is_switch or option.implied is not None
            return str(raw).lower() if takes else None
        case str() if not option.is_switch:
            return raw
        case int() | float() if not option.is_switch:
            return repr(raw)
        case list() if isinstance(option.default, tuple):
            return show_list(tuple(str(item) for item in raw))
        case _:
            return None


def _quoted(raw: object) -> str:
    match raw:
        case bool():
            return str(raw).lower()
        case str():
            return '"' + raw.replace("\n", "\\n") + '"'
        case dict():
            return "a table"
        case _:
            return f"{raw}"


def expected_environment() -> dict[str, Option]:
    """Return the options by their environment variables."""
    return {option.variable: option for option in OPTIONS.values()}


def example() -> str:
    """Return a file in which every option stands, commented out, with its default or a value."""
    lines = [
        "# Options of all mounts. The user's file wins over /etc/dedupfs/config.toml, the environment",
        "# over files, flags over all. What is in force: dedupfs config show MOUNTPOINT",
    ]
    for option in OPTIONS.values():
        lines += ["", *textwrap.wrap(option.help, initial_indent="# ", subsequent_indent="# ")]
        default = option.shown_default or option.tell(option.default)
        lines += [f"# Wanted: {option.want}. Default: {default}."]
        lines += [f"# {option.name} = {_example_value(option)}"]
    lines += ["", "# Options of one mount.", f'# [{MOUNTS}."~/.cache/modelscope/hub/tmp"]']
    return "\n".join([*lines, '# capacity = "200G"', ""])


def _example_value(option: Option) -> str:
    text = option.example if option.default is None else option.show(option.default)
    return text if option.is_switch else f'"{text}"'


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Return what the environment sets; raises BadOption. An empty variable sets nothing."""
    return {
        option.name: Setting(option.parse(text, f"{variable}={text}"), variable)
        for variable, option in expected_environment().items()
        if (text := environ.get(variable))
    }


def misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that looks like one of ours, misspelt."""
    known = [*expected_environment(), VARIABLE]
    lines = []
    for variable in environ:
        if variable.startswith("DEDUPFS_") and variable not in known:
            hint = did_you_mean(variable, known, cutoff=0.9)
            lines += [f"{variable} in the environment is no option{hint}"] if hint else []
    return lines
