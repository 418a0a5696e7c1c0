"""Tells systemd how the daemon is: sd_notify(3), a datagram to $NOTIFY_SOCKET. Else does nothing."""

from __future__ import annotations

import logging
import os
import socket
from typing import Final

log = logging.getLogger(__name__)

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


def notify(*lines: str) -> None:
    """Send lines such as `READY=1`; nobody listening, or nobody answering, is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        try:
            link.settimeout(1)
            link.sendto("\n".join(lines).encode(errors="replace"), address)
        except OSError as error:
            log.warning("telling systemd: %s", error.strerror or error)


def status(text: str) -> str:
    """Return the line that `systemctl status` shows."""
    return f"STATUS={' '.join(text.split())}"


def watchdog_interval_s() -> float | None:
    """Return how often systemd wants a sign of life, halved to be in time; None: it does not."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdigit() or int(usec) == 0 or meant_for != str(os.getpid()):
        return None
    return int(usec) / 2_000_000
