"""systemd's journal, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from typing import Final

from dedupfs.core.errors import MountError

SOCKET: Final = "/run/systemd/journal/socket"
# What fits into a datagram whatever the limits; longer messages would need a sealed memfd.
_MESSAGE_MAX_BYTES: Final = 48 << 10
_LENGTH: Final = struct.Struct("<Q")
# The numbers of syslog(3).
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG: Final = 7


class JournalHandler(logging.Handler):
    """Sends records to the journal, each with its level, logger and extra fields."""

    def __init__(self) -> None:
        """Connect; raises MountError where there is no journal."""
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(SOCKET)
        except OSError as error:
            self._socket.close()
            raise MountError(
                f"log-to journald: no journal at {SOCKET} ({error.strerror}): "
                "use --log-to file, or stderr in the foreground"
            ) from None

    def emit(self, record: logging.LogRecord) -> None:  # type: ignore[explicit-override]
        """Send one record; one that cannot be sent is told as other handlers do."""
        try:
            self._socket.send(entry(record, self.format(record)))
        except OSError:
            self.handleError(record)

    def close(self) -> None:  # type: ignore[explicit-override]
        """Close the socket."""
        self._socket.close()
        super().close()


def entry(record: logging.LogRecord, message: str) -> bytes:
    """Return the datagram of a record."""
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(priority(record.levelno)),
        "SYSLOG_IDENTIFIER": "dedupfs",
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
    }
    return b"".join(_field(name, value) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    # Always with a length: then the value may hold line breaks.
    raw = value.encode(errors="replace")[:_MESSAGE_MAX_BYTES]
    return name.encode() + b"\n" + _LENGTH.pack(len(raw)) + raw + b"\n"


def priority(level: int) -> int:
    """Return syslog's number of a level."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)


def is_stderr() -> bool:
    """Tell whether standard error goes to the journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
