"""The README names only what there is: files, make targets, commands, flags, options, folders."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from dedupfs.cli.main import app
from dedupfs.service.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_TEXT = (_ROOT / "README.md").read_text(encoding="utf-8")
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MADE = ("build", "dist", "dedupfs.egg-info")  # by a build in the checkout
_CODE = re.compile(r"`([^`\n]+)`")


def _code() -> Iterator[str]:
    """Yield each line of fenced code, joined where it goes on, and each piece of `code`."""
    for block in _FENCED.findall(_TEXT):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.partition("  #")[0]
    yield from _CODE.findall(_FENCED.sub("", _TEXT).replace("\n", " "))


def _section(title: str) -> str:
    return _TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@cache
def _flags() -> dict[str, set[str]]:
    """Return the flags of each command, such as {"config show": {"--json", ...}}."""
    found: dict[str, set[str]] = {}

    def look(command: object, name: str) -> None:
        found[name] = {"--help"}
        for parameter in getattr(command, "params", ()):
            found[name].update(parameter.opts, parameter.secondary_opts)
        for word, inner in getattr(command, "commands", {}).items():
            look(inner, f"{name} {word}".strip())

    look(typer.main.get_command(app), "")
    return found


def _calls() -> Iterator[tuple[str, list[str]]]:
    """Yield (command, its flags) of each `dedupfs COMMAND …` in the README."""
    for code in _code():
        for call in re.findall(
            r"(?:^|(?<= )|(?<=bin/)|(?<=localhost/))dedupfs(?::runtime)? ([a-z-].*)", code
        ):
            words = shlex.split(call.replace("…", "").replace("'", ""))
            words = words[: words.index("--")] if "--" in words else words
            two = " ".join(words[:2])
            name = two if two in _flags() else words[0]
            name = "" if name.startswith("-") else name
            flags = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            yield name, flags


def test_every_command_and_flag_exists() -> None:
    calls = list(_calls())
    assert len(calls) > 40, "the README has more than that: the test does not see them"
    wrong = [f"dedupfs {name}" for name, _ in calls if name not in _flags()]
    wrong += [
        f"dedupfs {name} {flag}"
        for name, flags in calls
        for flag in flags
        if flag not in _flags().get(name, {flag})
    ]
    assert not wrong


def test_every_flag_in_the_text_exists() -> None:
    ours = set().union(*_flags().values())
    others = {
        "--nproc-per-node",
        "--device",
        "--cap-add",
        "--security-opt",
        "--user",
        "--rm",
        "--now",
    }
    told = {flag for code in _CODE.findall(_FENCED.sub("", _TEXT)) for flag in _flags_in(code)}
    assert len(told) > 15
    assert told <= ours | others


def _flags_in(code: str) -> list[str]:
    return re.findall(r"(?:^| )(--[a-z][a-z-]+)", code)


def test_the_table_of_commands_is_whole() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", _section("Use"), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told == {name.partition(" ")[0] for name in _flags() if name}


def test_the_table_of_options_is_whole() -> None:
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \|", _section("Options"), re.MULTILINE)
    told = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert sorted(told) == sorted(OPTIONS)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {target for code in _code() for target in re.findall(r"^make ([a-z-]+)", code)}
    assert len(told) > 8
    assert told <= targets


def test_every_file_exists() -> None:
    shape = re.compile(r"^(?:dedupfs|docker|docs|scripts|tests|\.ci)/[\w./:-]+$")
    told = {code for code in _CODE.findall(_TEXT) if shape.match(code)}
    told |= set(re.findall(r"\]\((?!https?:)([^)#]+)\)", _TEXT))
    told |= set(re.findall(r"\bdocker/[\w.-]*\w", _TEXT))
    assert len(told) > 30
    missing = [path for path in told if not (_ROOT / path.partition("::")[0]).exists()]
    assert not missing


def test_every_test_named_beside_another_exists() -> None:
    alone = {code for code in _CODE.findall(_TEXT) if re.fullmatch(r"test_\w+\.py", code)}
    there = {path.name for path in (_ROOT / "tests").rglob("test_*.py")}
    assert alone <= there


def test_every_single_test_named_exists() -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", _TEXT):
        assert re.search(rf"^(async )?def {name}\(", (_ROOT / path).read_text(), re.MULTILINE), name


@pytest.mark.parametrize("parent", ["dedupfs", "tests", "."])
def test_the_map_of_the_code_names_every_folder(parent: str) -> None:
    table = _section("Contributing")
    folders = [
        path.relative_to(_ROOT)
        for path in sorted((_ROOT / parent).iterdir())
        if path.is_dir() and any(path.rglob("*.*")) and not path.name.startswith((".", "_"))
    ]
    missing = [
        str(path)
        for path in folders
        if f"`{path}`" not in table and f"`{path}/" not in table and str(path) not in _MADE
    ]
    assert not missing
