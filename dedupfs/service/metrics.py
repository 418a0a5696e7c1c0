"""Metrics for Prometheus: read when they are scraped, so that requests do nothing for them.

The HTTP server has threads of its own. The numbers are read on the event loop, between two requests:
a scrape waits for its turn, and nothing is shared between threads.
"""

from __future__ import annotations

import logging
from importlib import metadata
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector

from dedupfs.core.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.core import Metric

    Document = Mapping[str, object]

log = logging.getLogger(__name__)

UNITS_SHOWN: Final = 20
UNITS_MAX_AGE_S: Final = 300.0
_PREFIX: Final = "dedupfs_"


class _Row(NamedTuple):
    """A metric without labels: a number of the status document, or of a part of it."""

    name: str
    key: str
    part: str
    text: str


GAUGES: Final = (
    _Row("content_bytes", "logical_bytes", "", "Bytes of all files, holes left out."),
    _Row("stored_bytes", "live_bytes", "", "Bytes in the store that files use, each once."),
    _Row("allocated_bytes", "allocated_bytes", "", "Bytes that the content takes on disk."),
    _Row("index_bytes", "index_bytes", "", "Bytes that the index takes on disk."),
    _Row("pending_free_bytes", "pending_free_bytes", "", "Unused bytes that are soon given back."),
    _Row("damaged_bytes", "damaged_bytes", "", "Stored bytes that cannot be read back."),
    _Row("files", "files", "", "Files, links and whatever else is no folder."),
    _Row("directories", "directories", "", "Folders."),
    _Row("disk_free_bytes", "free_bytes", "", "Free bytes of the file system below the store."),
    _Row("uptime_seconds", "uptime_s", "", "Time since the mount."),
    _Row("capacity_bytes", "capacity_bytes", "limits", "Limit of the bytes on disk."),
    _Row("min_free_bytes", "min_free_bytes", "limits", "Bytes to be left free on the disk."),
    _Row("max_files", "max_files", "limits", "Limit of the number of files."),
    _Row("pressure_ratio", "pressure", "limits", "How full it is by the nearest limit, 1 is full."),
)
COUNTERS: Final = (
    _Row("read_bytes", "read_bytes", "", "Bytes read through the daemon; passthrough reads and "
         "those of kernel caches are not seen."),
    _Row("collisions", "collisions", "ingest", "Equal fingerprints of unequal bytes."),
    _Row("healed_chunks", "healed_chunks", "ingest", "Damaged chunks mended by a new copy."),
    _Row("evicted_units", "units", "evictions", "Units removed to make room."),
    _Row("evicted_bytes", "bytes", "evictions", "Bytes given back by evictions."),
    _Row("evicted_files", "files", "evictions", "Files removed to make room."),
)  # fmt: skip
WRITTEN: Final = {
    "followed": "followed_bytes",
    "matched": "matched_bytes",
    "new": "unique_bytes",
    "zeros": "zero_bytes",
}


class Scrape(NamedTuple):
    """What one scrape is made of, read at one moment."""

    status: Document
    units: Sequence[Document]
    units_age_s: float


def families(scrape: Scrape) -> Iterator[Metric]:
    """Yield all metrics; a limit that is not set has none."""
    status = scrape.status
    for family, rows in ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS)):
        for row in rows:
            value = _number(_part(status, row.part), row.key)
            if value is not None:
                yield family(_PREFIX + row.name, row.text, value=value)
    written = CounterMetricFamily(
        _PREFIX + "written_bytes",
        "Bytes written, by what became of them: found stored by following or by fingerprint, new, "
        "or zeros, which take no space.",
        labels=["kind"],
    )
    for kind, key in WRITTEN.items():
        written.add_metric([kind], _number(_part(status, "ingest"), key) or 0)
    yield written
    yield _requests(status)
    yield from _units(scrape)
    info = {key: str(status.get(key)) for key in ("mountpoint", "store", "io_mode")}
    yield InfoMetricFamily(
        _PREFIX.rstrip("_"), "The mount.", value={**info, "version": metadata.version("dedupfs")}
    )


def _requests(status: Document) -> Metric:
    family = CounterMetricFamily(
        _PREFIX + "requests", "Requests of the kernel, by kind.", labels=["operation"]
    )
    for operation in sorted(counts := _part(status, "requests")):
        family.add_metric([operation], _number(counts, operation) or 0)
    return family


def _units(scrape: Scrape) -> Iterator[Metric]:
    content = GaugeMetricFamily(
        _PREFIX + "unit_content_bytes", "Bytes of the files of the largest units.", labels=["unit"]
    )
    own = GaugeMetricFamily(
        _PREFIX + "unit_exclusive_bytes",
        "Bytes that only this one of the largest units uses.",
        labels=["unit"],
    )
    for unit in scrape.units:
        if unit["path"] is not None:
            # Names may be bytes that are no text.
            name = str(unit["path"]).encode(errors="backslashreplace").decode()
            content.add_metric([name], _number(unit, "logical_bytes") or 0)
            own.add_metric([name], _number(unit, "exclusive_bytes") or 0)
    yield content
    yield own
    if scrape.units:
        yield GaugeMetricFamily(
            _PREFIX + "units_age_seconds",
            "How old the figures of the units are.",
            value=scrape.units_age_s,
        )


class _Reader(Collector):
    """Called in a thread of the server: reads on the event loop."""

    def __init__(self, read: Callable[[], Scrape]) -> None:
        self._read = read
        self._token = trio.lowlevel.current_trio_token()

    def collect(self) -> Iterable[Metric]:  # type: ignore[explicit-override]
        # Metrics of what was read at one moment.
        return families(trio.from_thread.run_sync(self._read, trio_token=self._token))


class Server:
    """Answers scrapes until `close`."""

    def __init__(self, address: str, read: Callable[[], Scrape]) -> None:
        """Listen on HOST:PORT; to be called on the event loop. Raises MountError."""
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(_Reader(read))
        started: tuple[WSGIServer, Thread]
        try:
            started = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise MountError(
                f"--metrics {address}: {error.strerror or error}: give another address"
            ) from None
        self._server, self._thread = started
        self.address = f"{host}:{self._server.server_port}"
        log.info("metrics on http://%s/metrics", self.address)

    async def serve(self) -> None:
        """Wait until cancelled; then end the threads."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                # In a thread: it waits for the server's loop, which may wait for ours.
                await trio.to_thread.run_sync(self.close)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _part(status: Document, key: str) -> Document:
    if not key:
        return status
    part = status.get(key)
    return part if isinstance(part, dict) else {}


def _number(document: Document, key: str) -> float | None:
    value = document.get(key)
    return value if isinstance(value, int | float) else None
