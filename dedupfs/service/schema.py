"""What an option of a mount is: its name everywhere, how its text is read, what it may be.

An option is declared once, as a field of `options.MountOptions`. Flags, TOML keys, environment
variables, `-o` lists, the way to the daemon and `dedupfs set` all go by that declaration.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from dedupfs.core.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
D = TypeVar("D")

_METADATA_KEY: Final = "dedupfs"
NONE: Final = "none"


class BadOption(MountError):
    """An option's name or value is wrong; the text says where it was given and what is wanted."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A type of value: `parse` reads what was typed (ValueError), `show` writes it back exactly."""

    metavar: str
    want: str
    parse: Callable[[str], T]
    show: Callable[[T], str] = str
    choices: tuple[str, ...] = ()
    example: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `implied` is the value of a flag without one."""

    name: str
    kind: Kind[object]
    default: object
    help: str
    is_optional: bool = False
    is_live: bool = False
    implied: str | None = None
    shown_default: str | None = None

    @property
    def flag(self) -> str:
        """The command line's name of it."""
        return f"--{self.name}"

    @property
    def variable(self) -> str:
        """The environment's name of it."""
        return f"DEDUPFS_{self.name.upper().replace('-', '_')}"

    @property
    def is_switch(self) -> bool:
        """Whether it is either on or off."""
        return isinstance(self.default, bool)

    @property
    def example(self) -> str:
        """A value it may have."""
        return self.kind.example or next(iter(self.kind.choices), NONE)

    @property
    def want(self) -> str:
        """What it may be, in words."""
        return f"{self.kind.want}, or none" if self.is_optional else self.kind.want

    def parse(self, text: str, said: str) -> object:
        """Return the value typed as `text`; raises BadOption, whose line begins with `said`."""
        if self.is_optional and text.strip().lower() == NONE:
            return None
        if self.implied is not None and text == "true":
            text = self.implied
        try:
            return self.kind.parse(text)
        except ValueError:
            hint = did_you_mean(text, self.kind.choices)
            raise BadOption(f"{said}: want {self.want}{hint}") from None

    def show(self, value: object) -> str:
        """Return the text from which `parse` makes `value`."""
        return NONE if value is None else self.kind.show(value)

    def tell(self, value: object) -> str:
        """Return the value for a person: as typed, or what is done without one."""
        return self.shown_default or NONE if value is None else self.kind.show(value) or NONE


def option(  # noqa: PLR0913 - what a declaration says
    name: str,
    kind: Kind[T],
    default: D,
    text: str,
    *,
    live: bool = False,
    optional: bool = False,
    implied: str | None = None,
    shown_default: str | None = None,
) -> D:
    """Return a dataclass field that declares an option; typed as its default for the checker."""
    declared = Option(
        name=name,
        kind=cast("Kind[object]", kind),
        default=default,
        help=text,
        is_live=live,
        is_optional=optional,
        implied=implied,
        shown_default=shown_default,
    )
    return field(default=default, metadata={_METADATA_KEY: declared})


def declared_option(metadata: object) -> Option | None:
    """Return the option that a dataclass field's metadata declares."""
    found = metadata.get(_METADATA_KEY) if hasattr(metadata, "get") else None
    return found if isinstance(found, Option) else None


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return `; did you mean "..."?` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f'; did you mean "{close[0]}"?' if close else ""


def one_of(*choices: str) -> Kind[str]:
    """Return the kind of a value from a list."""
    return choice(choices, str)


def choice(choices: Iterable[str], make: Callable[[str], T]) -> Kind[T]:
    """Return the kind of a value that `make` makes of one of the choices."""
    known = tuple(str(each) for each in choices)

    def parse(text: str) -> T:
        if text not in known:
            raise ValueError(text)
        return make(text)

    return Kind("|".join(known), f"one of {', '.join(known)}", parse, str, known)


def above_zero(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return the parser, refusing numbers that are not above 0 or have no end."""

    def checked(text: str) -> T:
        value = parse(text)
        assert isinstance(value, int | float)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    return checked


def parse_switch(text: str) -> bool:
    """Return on or off; raises ValueError."""
    known = {"true": True, "yes": True, "on": True, "1": True}
    known |= {"false": False, "no": False, "off": False, "0": False}
    if text.strip().lower() not in known:
        raise ValueError(text)
    return known[text.strip().lower()]


def show_switch(value: object) -> str:
    """Return the text of on or off."""
    return "true" if value else "false"


def parse_address(text: str) -> str:
    """Return HOST:PORT of `HOST:PORT`, `:PORT` or `PORT`; loopback when no host is named."""
    host, _, port = text.strip().rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - tcp(7)
        raise ValueError(text)
    if not re.fullmatch(r"|[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%a-z]+\]", host):
        raise ValueError(text)
    return f"{host or '127.0.0.1'}:{int(port)}"


def parse_list(text: str) -> tuple[str, ...]:
    r"""Return the items between commas; `\,` is a comma inside an item."""
    items = (item.strip().replace("\\,", ",") for item in re.split(r"(?<!\\),", text))
    return tuple(item for item in items if item)


def show_list(items: tuple[str, ...]) -> str:
    """Return the text from which `parse_list` makes the items."""
    return ",".join(item.replace(",", "\\,") for item in items)
