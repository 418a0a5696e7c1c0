"""systemd units for mounts: their text, their names, where they lie. Pure but for `installed_in`.

What a unit may not say, for the mount would not be seen outside of it: every directive that gives
the service a mount namespace of its own (ProtectSystem=, ProtectHome=, PrivateTmp=, PrivateDevices=,
ProtectProc=, ProtectKernel*=, ProtectControlGroups=, ReadOnlyPaths=, PrivateMounts=, MountFlags=:
systemd.exec(5); in such a namespace mounts do not propagate back to the host, whatever MountFlags=
says). ProtectClock= is left out because its implied DeviceAllow= closes /dev/fuse. In a unit of a
user everything that implies NoNewPrivileges= is left out as well: fusermount3 is setuid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SYSTEM_FOLDER: Final = Path("/etc/systemd/system")

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")
_SAFE_WORD: Final = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")

_HARDENING: Final = """\
# Root mounts by itself, no setuid program is needed. CAP_SYS_ADMIN mounts, and lets readers read
# past the daemon; CAP_DAC_OVERRIDE reaches stores and mount points in the folders of users.
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE
AmbientCapabilities=
DevicePolicy=closed
DeviceAllow=/dev/fuse rw
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallErrorNumber=EPERM
KeyringMode=private
UMask=0077
# Nothing here may give the service a mount namespace (ProtectSystem=, PrivateTmp=, ...): the mount
# would be visible to the service only.
# All ranks' data goes through this process: not the first to be killed when memory is short.
OOMScoreAdjust=-500
"""

_USER_HARDENING: Final = """\
# No NoNewPrivileges=, nor what implies it: fusermount3 is setuid. No ProtectSystem=, PrivateTmp=, ...:
# the mount would be visible to the service only.
UMask=0077
"""

_UNIT: Final = """\
# Made by `dedupfs systemd install`; goes with `dedupfs systemd uninstall`.
[Unit]
Description=dedupfs on {mountpoint_text}
Documentation=man:mount(8)
RequiresMountsFor={needed}
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={start}
# After a kill the dead mount is still there: the next start replaces it, this clears the last one.
# --stale: should somebody else have mounted there, that stays.
ExecStopPost=-{clear}
Restart=on-failure
RestartSec=1
# 2: wrong arguments, which no restart makes right.
RestartPreventExitStatus=2
# Recovery of a big store, and putting all on disk at the end, take their time.
TimeoutStartSec=10min
TimeoutStopSec=10min
KillMode=mixed
LimitNOFILE=1048576
{hardening}
[Install]
WantedBy={wanted_by}
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """A service of one mount."""

    name: str
    text: str


def escape_path(path: Path) -> str:
    """Return the path as part of a unit's name: what `systemd-escape --path` prints."""
    raw = str(path).strip("/").encode(errors="surrogateescape")
    if not raw:
        return "-"
    out = []
    for place, byte in enumerate(raw):
        if byte == ord("/"):
            out.append("-")
        elif byte in _PLAIN and not (byte == ord(".") and place == 0):
            out.append(chr(byte))
        else:
            out.append(f"\\x{byte:02x}")
    return "".join(out)


def unit_name(mountpoint: Path) -> str:
    """Return the name of the mount's service: an instance of `dedupfs@`."""
    return f"dedupfs@{escape_path(mountpoint)}.service"


def make_unit(
    mountpoint: Path, store: Path, program: Sequence[str], flags: Sequence[str], *, for_user: bool
) -> Unit:
    """Return the service that mounts `mountpoint`, `flags` as for `dedupfs mount`; paths absolute."""
    needed = dict.fromkeys((mountpoint.parent, store.parent))
    start = [*program, "mount", str(mountpoint), "--foreground", *flags]
    text = _UNIT.format(
        mountpoint_text=_doubled(str(mountpoint)).replace("\n", " "),
        needed=" ".join(quoted(str(path)) for path in needed),
        start=" ".join(quoted(word) for word in start),
        clear=" ".join(quoted(word) for word in (*program, "umount", "--stale", str(mountpoint))),
        hardening=_USER_HARDENING if for_user else _HARDENING,
        wanted_by="default.target" if for_user else "multi-user.target",
    )
    return Unit(unit_name(mountpoint), text)


def quoted(word: str) -> str:
    """Return a word of a command line as systemd.service(5) reads it: quotes, `%` and `$` doubled."""
    safe = _doubled(word).replace("$", "$$")
    if _SAFE_WORD.fullmatch(safe):
        return safe
    escaped = "".join(
        {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}.get(letter, letter) for letter in safe
    )
    return f'"{escaped}"'


def _doubled(text: str) -> str:
    return text.replace("%", "%%")


def folder(environ: Mapping[str, str], *, for_user: bool) -> Path:
    """Return where units of the machine's administrator, or of this user, lie."""
    if not for_user:
        return SYSTEM_FOLDER
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path("~/.config").expanduser()) / "systemd/user"
