"""Where log records go. Only the daemon calls this; everybody else just logs."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dedupfs.service.options import MountOptions

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FILE_MAX_BYTES: Final = 1 << 20
_EARLY_RECORDS_MAX: Final = 10_000


class DaemonLog:
    """Keeps records in memory until the store is ours: its log may be another daemon's so far."""

    def __init__(self, options: MountOptions) -> None:
        """Begin to keep records."""
        self._options = options
        # Never flushed by itself: level beyond every record's, and room enough for a start.
        self._early = logging.handlers.MemoryHandler(_EARLY_RECORDS_MAX, logging.CRITICAL + 1)
        logging.basicConfig(level=logging.INFO, handlers=[self._early], force=True)

    def open(self) -> None:
        """Write the kept and all later records to where the options say; raises OSError."""
        handlers: list[logging.Handler] = []
        if self._options.foreground:
            handlers.append(logging.StreamHandler(sys.stderr))
        if self._options.log_file or not self._options.foreground:
            path = self._options.log_path
            handlers.append(
                logging.handlers.RotatingFileHandler(
                    path, maxBytes=_FILE_MAX_BYTES, backupCount=1, encoding="utf-8"
                )
            )
        root = logging.getLogger()
        for handler in handlers:
            handler.setFormatter(logging.Formatter(_FORMAT))
            root.addHandler(handler)
        root.removeHandler(self._early)
        for record in self._early.buffer:
            root.handle(record)
        self._early.buffer.clear()
