"""Who keeps a mount busy: looks through /proc, asks no file system anything that could hang."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.service import mounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dedupfs.service.mounts import Mount

_LINKS: Final = {"cwd": "working directory", "root": "root directory", "exe": "program"}
_SHOWN_MAX: Final = 3


@dataclass(slots=True)
class Holder:
    """A process that uses the mount, and how."""

    pid: int
    command: str
    uses: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return one line for a user."""
        shown = ", ".join(self.uses[:_SHOWN_MAX])
        more = len(self.uses) - _SHOWN_MAX
        return f"pid {self.pid} ({self.command}): {shown}" + (f", {more} more" if more > 0 else "")


def nested_mounts(mount: Mount) -> list[Path]:
    """Return the mount points of file systems mounted inside this one."""
    return [other.path for other in mounts.mounts() if other.parent_id == mount.mount_id]


def holders(mount: Mount) -> tuple[list[Holder], bool]:
    """Return the processes that use the mount, and whether all processes could be looked at."""
    found: list[Holder] = []
    complete = True
    sockets = _bound_sockets(mount)
    for process in _processes():
        try:
            uses = list(dict.fromkeys(_uses(process, mount, sockets)))
        except PermissionError:
            complete = False
        except OSError:
            continue  # it has ended meanwhile
        else:
            if uses:
                found.append(Holder(int(process.name), _command(process), uses))
    return found, complete


def elsewhere(mount: Mount) -> Holder | None:
    """Return a process of another mount namespace in which the mount is still there."""
    device = f" {os.major(mount.device)}:{os.minor(mount.device)} "
    for process in _processes():
        try:
            for line in (process / "mountinfo").read_text(errors="replace").splitlines():
                if device in line.partition(" - ")[0]:
                    return Holder(int(process.name), _command(process), [line.split()[4]])
        except OSError:
            continue
    return None


def _processes() -> list[Path]:
    return sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name))


def _uses(process: Path, mount: Mount, sockets: set[str]) -> Iterator[str]:
    for name, what in _LINKS.items():
        target = _link(process / name)
        if target and _inside(target, mount) and _same_namespace(process):
            yield f"{what} {target}"
    for entry in os.listdir(process / "fd"):  # noqa: PTH208 - names are what is wanted
        target = _link(process / "fd" / entry)
        if target in sockets:
            yield f"bound socket {target}"
        elif target.startswith("/") and _mount_id(process / "fdinfo" / entry) == mount.mount_id:
            yield f"open file {target}"
    yield from _mapped(process, mount)


def _mapped(process: Path, mount: Mount) -> Iterator[str]:
    # proc_pid_maps(5): address perms offset device inode path
    device = f"{os.major(mount.device):02x}:{os.minor(mount.device):02x}"
    for line in (process / "maps").read_text(errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if fields[3] == device:
            yield f"mapped file {fields[-1]}"


def _mount_id(fdinfo: Path) -> int | None:
    try:
        lines = fdinfo.read_text().splitlines()
    except FileNotFoundError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("mnt_id:")), None)


def _link(path: Path) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - a str is wanted, not a Path
    except FileNotFoundError:
        return ""  # a kernel thread has no exe, and a file may be closed by now


def _inside(target: str, mount: Mount) -> bool:
    return Path(target).is_relative_to(mount.path)


def _same_namespace(process: Path) -> bool:
    return os.readlink(process / "ns/mnt") == os.readlink("/proc/self/ns/mnt")  # noqa: PTH115


def _bound_sockets(mount: Mount) -> set[str]:
    # proc_net_unix: the last two fields are inode and path; a bound socket pins its folder.
    found = set()
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and _inside(fields[7], mount):  # noqa: PLR2004 - fields above
            found.add(f"socket:[{fields[6]}]")
    return found


def _command(process: Path) -> str:
    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if words:
        return words if len(words) <= 60 else words[:57] + "..."  # noqa: PLR2004 - a line's room
    return (process / "comm").read_text(errors="replace").strip()
