"""Flags of a mount: each option has one, and what was typed arrives as typed."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from dedupfs.cli.mount_flags import Flags, MountCommand, takes_mount_flags, with_implied_values
from dedupfs.service.options import OPTIONS

app = typer.Typer()
seen: list[Flags] = []


@app.command(cls=MountCommand)
@takes_mount_flags
def command(word: str, *, own: bool = False, flags: Flags) -> None:
    assert word == "W"
    del own
    seen.append(flags)


def typed(*arguments: str) -> Flags:
    seen.clear()
    done = CliRunner().invoke(app, ["W", *arguments])
    assert done.exit_code == 0, done.output
    return seen.pop()


def test_nothing_typed_is_nothing_asked_for() -> None:
    assert typed() == typed("--own") == Flags({}, [], None)


def test_every_option_has_a_flag() -> None:
    page = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"}).output
    for option in OPTIONS.values():
        assert option.flag in page or option.name == "fuse-options"


def test_values_switches_and_lists() -> None:
    flags = typed("--capacity", "2G", "--allow-other", "--no-foreground", "-o", "ro", "-o", "rw")
    assert flags.texts == {"capacity": "2G", "allow-other": "true", "foreground": "false"}
    assert flags.lists == ["ro", "rw"]
    assert typed("-f").texts == {"foreground": "true"}
    assert typed("--verbose").texts == {"log-level": "debug"}
    assert typed("--verbose", "--log-level", "error").texts == {"log-level": "error"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--auto-gc"], "10m"),
        (["--auto-gc", "2h"], "2h"),
        (["--auto-gc=2h"], "2h"),
        (["--auto-gc", "--own"], "10m"),
    ],
)
def test_a_flag_with_an_implied_value(arguments: list[str], text: str) -> None:
    assert typed(*arguments).texts == {"auto-gc": text}


def test_an_implied_value_takes_no_mount_point_and_no_word_of_another_command() -> None:
    assert with_implied_values(["--auto-gc", "/mnt"]) == ["--auto-gc=10m", "/mnt"]
    assert with_implied_values(["--", "x", "--auto-gc"]) == ["--", "x", "--auto-gc"]
