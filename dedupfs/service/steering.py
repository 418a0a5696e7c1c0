"""The commands' side of `service.evicting`: ask a mount to evict, explain, pin, or change a limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import MountError
from dedupfs.service import busy, client, mounts, survey

if TYPE_CHECKING:
    from collections.abc import Mapping

    Document = dict[str, object]

_PATIENCE_S: Final = 24 * 3600.0  # an eviction takes as long as the disk does


def evict(mountpoint: Path, *, to_bytes: int | None, dry_run: bool) -> Document:
    """Evict, or say what would go. Raises MountError, ControlError."""
    return _ask(_mount(mountpoint), "evict", {"to": to_bytes, "dry_run": dry_run})


def gc(mountpoint: Path, *, dry_run: bool) -> Document:
    """Remove the folders of processes that have ended, or say which."""
    return _ask(_mount(mountpoint), "gc", {"dry_run": dry_run})


def set_options(mountpoint: Path, values: Mapping[str, str]) -> Document:
    """Change options of a mount that goes on."""
    return _ask(_mount(mountpoint), "set", values)


def pin(path: Path) -> Document:
    """Pin the unit that `path` is in."""
    inside = survey.inside(path)
    return _ask(inside.mount, "pin", {"path": inside.path})


def unpin(path: Path) -> Document:
    """Undo `pin`."""
    inside = survey.inside(path)
    return _ask(inside.mount, "unpin", {"path": inside.path})


def why(path: Path) -> Document:
    """Return why the unit of a path, which may be gone, was evicted or is kept.

    "open_by" names the processes that have files of the unit open, as far as they can be seen.
    """
    inside = _inside(path)
    document = _ask(inside.mount, "why", {"path": inside.path})
    if document.get("is_open"):
        document["open_by"] = _open_by(inside.mount, str(document["unit"]))
    return document


def _inside(path: Path) -> survey.Inside:
    """Return where a path lies whose last parts may be gone."""
    missing: list[str] = []
    at = path.absolute()
    while mounts.mount_at(mounts.resolve(at)) is None and not at.is_symlink() and not at.exists():
        missing.insert(0, at.name)
        at = at.parent
    try:
        found = survey.inside(at)
    except mounts.DeadMount:
        raise
    except MountError:
        raise MountError(f"{path} is not inside a dedupfs mount") from None
    return found._replace(path="/".join(filter(None, (found.path, *missing))))


def _open_by(mount: mounts.Mount, unit: str) -> list[str]:
    top = mount.path / unit
    found = []
    for holder in busy.holders(mount)[0]:
        files = (use.partition(" file ")[2] for use in holder.uses)
        if any(file and Path(file).is_relative_to(top) for file in files):
            found.append(f"{holder.pid} ({holder.command})")
    return found


def _mount(mountpoint: Path) -> mounts.Mount:
    mount = mounts.mount_at(mounts.resolve(mountpoint))
    if mount is None or not mount.is_dedupfs:
        raise MountError(f"{mountpoint} is not a dedupfs mount")
    mounts.check_alive(mount)
    return mount


def _ask(mount: mounts.Mount, operation: str, request: Mapping[str, object]) -> Document:
    document = client.ask(mount.store, operation, request, timeout_s=_PATIENCE_S)
    if document is None:
        raise MountError(f"{mount.path}: the daemon does not answer")
    return document
