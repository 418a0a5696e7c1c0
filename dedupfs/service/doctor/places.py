"""Mounts that are there, stores and the disks they lie on, and where programs put their caches."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import DedupfsError
from dedupfs.core.quantities import size
from dedupfs.fuse import passthrough
from dedupfs.service import client, mounts, preflight, report
from dedupfs.service.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dedupfs.service.mounts import Mount

_FICLONE: Final = 0x40049409  # include/uapi/linux/fs.h
_FREE_SHARE: Final = 0.05
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "lustre", "gpfs"})
# The variable, and below the home folder what its program uses without it.
CACHES: Final[Mapping[str, str | None]] = {
    "MODELSCOPE_CACHE": ".cache/modelscope",
    "HF_HOME": ".cache/huggingface",
    "HF_DATASETS_CACHE": ".cache/huggingface/datasets",
    "CLEARML_CACHE_DIR": ".clearml/cache",
    "TMPDIR": None,
}
_TEMPORARY: Final = "/tmp"  # noqa: S108 - what programs use without TMPDIR


def mount_findings(seen: list[Mount]) -> Iterator[Finding]:
    """Yield what is to be said of each dedupfs mount."""
    if not seen:
        yield ok("mounts", "none")
    for mount in seen:
        what = f"mount {mount.path}"
        if mounts.is_stale(mount):
            yield problem(
                what, "its daemon has died", f"dedupfs umount {mount.path}, or mount it again"
            )
            continue
        if not os.access(mount.store, os.R_OK | os.X_OK):
            yield ok(what, f"store {mount.store}, another user's: only he can look at it")
            continue
        try:
            answer = client.ask(mount.store, "status")
        except (DedupfsError, OSError) as error:
            yield problem(what, f"{error}", f"see {mount.store / 'dedupfs.log'}")
            continue
        if answer is None:
            yield warning(what, "its control socket is not there", "was the store moved away?")
        elif answer.get("damaged_bytes"):
            yield problem(
                what, f"{answer['damaged_bytes']} bytes are damaged", f"dedupfs scrub {mount.path}"
            )
        else:
            yield ok(what, f"store {mount.store}, {answer.get('io_mode')}")


def store_findings(store: Path) -> Iterator[Finding]:
    """Yield what is to be said of the disk of a store, which need not be there yet."""
    place = store
    while not place.exists():
        place = place.parent
    what = f"store {store}"
    if report.is_store(store):
        mode = store.stat().st_mode & 0o077
        yield (
            warning(what, "others may look into it", f"chmod 700 {store}")
            if mode
            else ok(what, "is a store, for its owner only")
        )
    elif not os.access(place, os.W_OK):
        yield problem(what, f"{place} cannot be written", "name another with --store")
    kind = _fs_type(place)
    disk = f"disk of {store}"
    if kind in _NETWORK:
        yield warning(disk, f"{kind}: a network file system", "a store belongs on a local disk")
    elif kind == "tmpfs":
        yield warning(disk, "tmpfs: the store is in memory, gone at a restart", "name a disk")
    else:
        deep = passthrough.stack_depth(place) > 1
        yield ok(disk, f"{kind}, reads past the daemon are one level deeper" if deep else kind)
    yield _reflinks(place, disk)
    yield from _room(place, disk)


def environment_findings(environ: Mapping[str, str], seen: list[Mount]) -> Iterator[Finding]:
    """Yield for each variable that says where a cache is whether that is in a mount."""
    home = Path(environ.get("HOME", "/"))
    for name, fallback in CACHES.items():
        value = environ.get(name)
        place = Path(value) if value else home / fallback if fallback else Path(_TEMPORARY)
        shown = f"{place}" if value else f"unset, so {place}"
        resolved = mounts.resolve(place)
        inside = [mount for mount in seen if resolved.is_relative_to(mount.path)]
        below = [mount for mount in seen if mount.path.is_relative_to(resolved)]
        if inside:
            yield ok(name, f"{shown}: in the mount {inside[-1].path}")
        elif below:
            listed = ", ".join(str(mount.path) for mount in below)
            yield ok(name, f"{shown}: has the mount {listed} in it")
        elif value or os.path.isdir(resolved):  # noqa: PTH112 - no error in a home of another user
            yield warning(
                name, f"{shown}: in no mount, copies in it take their full space",
                f"dedupfs estimate {place} says what a mount would save",
            )  # fmt: skip
        else:
            yield ok(name, f"{shown}, which is not there")


def default_store_of(path: Path) -> Path:
    """Return the store to look at for what was named: a mount, a store, or a folder to mount over."""
    resolved = mounts.resolve(path)
    mount = mounts.mount_at(resolved)
    if mount is not None and mount.is_dedupfs:
        return mount.store
    return resolved if report.is_store(resolved) else preflight.default_store(resolved)


def _reflinks(place: Path, what: str) -> Finding:
    try:
        with contextlib.ExitStack() as stack:
            fds = [os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600) for _ in "ab"]
            for fd in fds:
                stack.callback(os.close, fd)
            os.pwrite(fds[0], bytes(4096), 0)
            fcntl.ioctl(fds[1], _FICLONE, fds[0])
    except OSError:
        return ok(what, "no reflinks: files that differ in a few pages are read by the daemon")
    return ok(what, "reflinks: files that differ in a few pages are read directly, too")


def _room(place: Path, what: str) -> Iterator[Finding]:
    found = os.statvfs(place)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    if free < total * _FREE_SHARE:
        yield warning(
            what, f"{size(free)} of {size(total)} are free",
            "below 5 % old units are removed to make room (--min-free)",
        )  # fmt: skip
    else:
        yield ok(what, f"{size(free)} of {size(total)} are free")
    # Some file systems have no fixed number of inodes.
    if found.f_files and found.f_favail < found.f_files * _FREE_SHARE:
        yield warning(
            what, f"{found.f_favail:,} of {found.f_files:,} inodes are free",
            "a store needs one for each segment: remove small files, or name another disk",
        )  # fmt: skip


def _fs_type(place: Path) -> str:
    resolved = mounts.resolve(place)
    above = [mount for mount in mounts.mounts() if resolved.is_relative_to(mount.path)]
    deepest = max(above, key=lambda mount: len(mount.path.parts), default=None)
    return deepest.fs_type if deepest else "unknown"
