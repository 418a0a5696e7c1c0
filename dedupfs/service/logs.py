"""Where log records go, and as what. Only the daemon calls this; everybody else just logs."""

from __future__ import annotations

import datetime as dt
import json
import logging
import logging.handlers
import sys
from typing import TYPE_CHECKING, Final

from dedupfs.service import journal

if TYPE_CHECKING:
    from dedupfs.service.options import MountOptions

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FILE_MAX_BYTES: Final = 1 << 20
_EARLY_RECORDS_MAX: Final = 10_000
# Of every record; what else one has was given with `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON document a line: time, level, logger, message, what `extra` gave, exception."""

    def format(self, record: logging.LogRecord) -> str:  # type: ignore[explicit-override]
        """Return the record's line."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        document: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        document |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


class DaemonLog:
    """Keeps records in memory until the store is ours: its log may be another daemon's so far."""

    def __init__(self, options: MountOptions) -> None:
        """Begin to keep records."""
        self._options = options
        # Never flushed by itself: level beyond every record's, and room enough for a start.
        self._early = logging.handlers.MemoryHandler(_EARLY_RECORDS_MAX, logging.CRITICAL + 1)
        level = options.log_level.upper()
        logging.basicConfig(level=level, handlers=[self._early], force=True)

    def open(self) -> None:
        """Write the kept and all later records to where the options say.

        Raises OSError for a file that cannot be written, MountError when there is no journal.
        """
        root = logging.getLogger()
        for handler in [_handler(place, self._options) for place in self._options.log_places]:
            root.addHandler(handler)
        root.removeHandler(self._early)
        for record in self._early.buffer:
            root.handle(record)
        self._early.buffer.clear()


def _handler(place: str, options: MountOptions) -> logging.Handler:
    as_json = options.log_format == "json"
    formatter = JsonFormatter() if as_json else logging.Formatter(_FORMAT)
    # The journal has time and level of its own; JSON lines stay what a collector expects.
    if place == "journald" or (place == "stderr" and not as_json and journal.is_stderr()):
        handler: logging.Handler = journal.JournalHandler()
        formatter = JsonFormatter() if as_json else logging.Formatter("%(message)s")
    elif place == "stderr":
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.handlers.RotatingFileHandler(
            options.log_path, maxBytes=_FILE_MAX_BYTES, backupCount=1, encoding="utf-8"
        )
    handler.setFormatter(formatter)
    return handler
