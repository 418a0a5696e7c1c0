"""From what was typed, the environment and configuration files to the options of one mount.

The stronger wins: a default, a file (the user's over the machine's, a mount's table over what is
for all mounts), the environment, an `-o` list, a flag.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.service import config, fuse_options, mounts
from dedupfs.service.config import Layer, Setting
from dedupfs.service.options import OPTIONS, MountOptions
from dedupfs.service.preflight import default_store
from dedupfs.service.schema import BadOption, did_you_mean, parse_list

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CONFIG: Final = "config"
_EXTRA: Final = "fuse-options"


@dataclass(frozen=True, slots=True)
class Typed:
    """What a command line asks for."""

    layer: Layer = field(default_factory=dict)
    config: Path | None = None


def typed(
    flags: Mapping[str, str], lists: Sequence[str] = (), *, config_file: Path | None = None
) -> Typed:
    """Return what flags, by option name, and `-o` lists ask for; a flag wins.

    Raises BadOption, naming the option.
    """
    listed = parse_option_list(",".join(lists))
    own = {
        name: Setting(OPTIONS[name].parse(text, f"{OPTIONS[name].flag} {text}"), OPTIONS[name].flag)
        for name, text in flags.items()
    }
    return Typed({**listed.layer, **own}, config_file or listed.config)


def parse_option_list(text: str) -> Typed:
    r"""Return what a list as in `mount -o` asks for; `\,` is a comma inside a value.

    Raises BadOption, naming the option, for one that is not known.
    """
    layer: Layer = {}
    extra: list[str] = []
    chosen: Path | None = None
    for item in parse_list(text):
        name, has_value, value = item.partition("=")
        if name == _CONFIG and value:
            chosen = Path(value).expanduser()
        elif (known := name.replace("_", "-")) in OPTIONS and known != _EXTRA:
            layer[known] = _listed(known, item, value if has_value else None)
        elif fuse_options.is_for_fuse(item):
            extra.append(item)
        elif not fuse_options.is_noise(item):
            hint = did_you_mean(name.replace("_", "-"), OPTIONS)
            raise BadOption(f"unknown mount option {item!r}{hint}")
    if extra:
        layer[_EXTRA] = Setting(tuple(extra), "-o")
    return Typed(layer, chosen)


def _listed(name: str, item: str, value: str | None) -> Setting:
    option = OPTIONS[name]
    if value is None and (option.is_switch or option.implied is not None):
        value = "true"
    if not value:
        raise BadOption(f"mount option {item} needs a value: {option.want}")
    return Setting(option.parse(value, f"mount option {item}"), f"-o {name}")


def resolve(mountpoint: Path, asked: Typed, environ: Mapping[str, str]) -> MountOptions:
    """Return the options of a mount at `mountpoint`, paths resolved; raises BadOption."""
    resolved = mounts.resolve(mountpoint)
    layer = _merged(resolved, asked, environ)
    values = {name: _absolute(setting.value) for name, setting in layer.items()}
    sources = {name: setting.source for name, setting in layer.items()}
    return MountOptions(resolved, default_store(resolved)).changed(values, sources)


def document(
    mountpoint: Path | None, config_file: Path | None, environ: Mapping[str, str]
) -> dict[str, object]:
    """Return, as `MountOptions.document`, what a mount would use if no flag were typed.

    With None: what is the same for all mounts. Raises BadOption.
    """
    asked = Typed(config=config_file)
    if mountpoint is not None:
        return resolve(mountpoint, asked, environ).document()
    found = resolve(Path("/"), asked, environ).document()
    options = found["options"]
    assert isinstance(options, dict), "see document"
    if "store" not in _merged(None, asked, environ):
        options["store"]["value"] = OPTIONS["store"].shown_default
    return {**found, "mountpoint": None}


def _merged(mountpoint: Path | None, asked: Typed, environ: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for file in config.load_all(asked.config, environ):
        layer |= file.layer(mountpoint) if mountpoint is not None else file.common
    return layer | config.environment_layer(environ) | asked.layer


def _absolute(value: object) -> object:
    return mounts.resolve(value) if isinstance(value, Path) else value
