"""`dedupfs du`: what files and folders of a mount hold, have alone, and would give back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dedupfs.cli import progress
from dedupfs.cli.errors import UsageError
from dedupfs.core.quantities import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    Document = dict[str, object]

_ROWS_SHOWN: Final = 40
_KEYS: Final = (
    "path", "depth", "is_folder", "files", "logical_bytes", "exclusive_bytes", "shared_bytes",
    "freed_bytes",
)  # fmt: skip

EPILOG: Final = """
[bold]Columns[/bold]

content: bytes of the files, holes left out; own: used by no file elsewhere; shared: used by others, \
too; frees: what its removal gives back, whole pages of the disk; several PATHs free more together \
than each alone

[bold]Examples[/bold]

[cyan]dedupfs du /data/cache --depth 1[/cyan]
the entries of the mount, those that free most first

[cyan]dedupfs du /data/cache/rank0 /data/cache/rank1[/cyan]
what removing both would free
"""


def du(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Files or folders inside one mount.", show_default=False
        ),
    ],
    *,
    depth: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also what is up to N levels below.")
    ] = 0,
    rows: Annotated[
        str, typer.Option("--rows", metavar="N|all", help="How many rows to show at most.")
    ] = str(_ROWS_SHOWN),
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; sizes in bytes.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Show what files and folders hold, have alone, share, and would free if they were removed."""
    from dedupfs.service import survey  # noqa: PLC0415

    if rows != "all" and not (rows.isascii() and rows.isdigit()):
        raise UsageError(f"--rows {rows}: want a number, or all")
    within = [survey.inside(path) for path in paths]
    stores = {one.mount.store for one in within}
    if len(stores) > 1:
        raise UsageError("the paths lie in several mounts: ask for one mount at a time")
    given = {one.path: str(path) for one, path in zip(within, paths, strict=True)}
    with progress.bar("who shares what", quiet=quiet or as_json) as show:
        found = survey.du(stores.pop(), list(given), depth=depth, show=show)
    together, entries = found[0], _as_given(found[1:], given)
    if as_json:
        import json  # noqa: PLC0415

        document = {
            "together": {key: together[key] for key in _KEYS[3:]},
            "entries": [{key: entry[key] for key in _KEYS} for entry in entries],
        }
        typer.echo(json.dumps(document, indent=2))
        return
    shown = entries if rows == "all" else entries[: int(rows)]
    for line in _lines(shown, together if len(given) > 1 else None, len(entries)):
        typer.echo(line)


def _as_given(entries: list[Document], given: dict[str, str]) -> list[Document]:
    """Return the entries as a person wrote the paths, what frees most first, folders before theirs."""
    tops = sorted(given, key=len, reverse=True)
    for entry in entries:
        path = str(entry["path"] or "")
        top = next((one for one in tops if not one or f"{path}/".startswith(f"{one}/")), "")
        entry["path"] = str(Path(given.get(top, "")) / path[len(top) :].lstrip("/"))
    # Preorder: each entry with all that is below it stays together, sorted among its siblings.
    roots: list[_Branch] = []
    stack: list[_Branch] = []
    for entry in entries:
        branch = _Branch(entry)
        del stack[int(str(entry["depth"])) - 1 :]
        (stack[-1].below if stack else roots).append(branch)
        stack.append(branch)
    return [entry for branch in _sorted(roots) for entry in branch.entries()]


class _Branch:
    def __init__(self, entry: Document) -> None:
        self.entry = entry
        self.below: list[_Branch] = []

    def entries(self) -> list[Document]:
        return [self.entry, *(one for branch in _sorted(self.below) for one in branch.entries())]


def _sorted(branches: list[_Branch]) -> list[_Branch]:
    def rank(branch: _Branch) -> tuple[int, int]:
        return _number(branch.entry, "freed_bytes"), _number(branch.entry, "logical_bytes")

    return sorted(branches, key=rank, reverse=True)


def _lines(shown: list[Document], together: Document | None, count: int) -> Iterator[str]:
    """Yield lines as of du(1): the path last, on one line however long it is."""
    from dedupfs.cli.render import path_text  # noqa: PLC0415

    keys = ("logical_bytes", "exclusive_bytes", "shared_bytes", "freed_bytes")

    def line(entry: Document, path: str) -> str:
        return " ".join(f"{size(_number(entry, key)):>10}" for key in keys) + f"  {path}"

    yield " ".join(f"{name:>10}" for name in ("content", "own", "shared", "frees"))
    for entry in shown:
        slash = "/" if entry["is_folder"] and not str(entry["path"]).endswith("/") else ""
        yield line(entry, path_text(entry["path"]) + slash)
    if len(shown) < count:
        yield f"and {count - len(shown):,} more: --rows all"
    if together is not None:
        yield line(together, "(all of them together)")


def _number(document: Document, key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0
