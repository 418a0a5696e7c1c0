"""The daemon: builds a mount from its parts, keeps it running, ends it. Owns clock and signals.

One nursery. Its body answers the kernel; the task `control` answers the commands, `scrub` checks all
bytes when one asks for it, `measure` makes accounts, `reclaim` gives freed space back, `checkpoint` makes all durable now and then, `signals` ends the mount, `watchdog` shows systemd that the loop turns. However the
mount ends, the body returns, the rest is cancelled, and then session, Vfs and Store are closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import time
from typing import TYPE_CHECKING, Final

import trio
import trio.lowlevel

from dedupfs.core.errors import DedupfsError, MountError, StoreInUse
from dedupfs.fuse.session import Session
from dedupfs.service import (
    control,
    evicting,
    history,
    inspecting,
    measuring,
    mounts,
    notify,
    preflight,
    scrubbing,
    status,
)
from dedupfs.service.logs import DaemonLog
from dedupfs.store.store import Store, remove_files
from dedupfs.vfs.vfs import Vfs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dedupfs.service.metrics import Server
    from dedupfs.service.options import MountOptions
    from dedupfs.store.backup import Backup

log = logging.getLogger(__name__)

_CLOCK_REALTIME_COARSE: Final = 5  # include/uapi/linux/time.h; the time module lacks it
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_RECLAIM_INTERVAL_S: Final = 1.0
_FIRST_BACKUP_S: Final = 300.0
_BACKUP_INTERVAL_S: Final = 3600.0
_HOLDER_ENDS_S: Final = 60.0
_WRITE_BACK_S: Final = 7.0  # `docker stop` kills after 10
_QUIET_S: Final = 0.3


def run(options: MountOptions, ready: Callable[[str | None], None]) -> int:
    """Serve one prepared mount until it ends; return the exit code.

    `ready` is called once: with None when the mount answers, with the reason when it cannot be.
    """
    os.chdir("/")
    os.umask(0o077)
    _raise_file_limit()
    daemon = _Daemon(options, ready)
    try:
        trio.run(daemon.serve)
    except DedupfsError as error:
        daemon.failed(str(error))
    except OSError as error:
        daemon.failed(f"{error.filename or options.store}: {error.strerror}")
    except KeyboardInterrupt:
        daemon.failed("interrupted")
    except BaseException as error:
        log.exception("bug: the mount ends")
        daemon.failed(f"internal error: {error!r}")
    daemon.farewell()
    return daemon.exit_code


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _now_ns() -> int:
    # What the kernel stamps files with in writeback mode: one clock for both.
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class _Daemon:
    def __init__(self, options: MountOptions, ready: Callable[[str | None], None]) -> None:
        self._options = options
        self._ready: Callable[[str | None], None] | None = ready
        self._log = DaemonLog(options)
        self._started = time.monotonic()
        self._control: control.Control | None = None
        self._failure: str | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self._failure is None else 1

    def failed(self, why: str) -> None:
        self._failure = why
        log.error("%s", why)
        notify.notify(notify.status(why))
        self._tell(why)

    def farewell(self) -> None:
        if self._control is not None:
            self._control.farewell(self._failure)

    def _tell(self, failure: str | None) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            ready(failure)
            if failure is None:
                notify.notify(notify.READY, notify.status(f"{self._options.mountpoint} is mounted"))

    async def serve(self) -> None:
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            store = await self._open_store()
            with contextlib.closing(store):
                self._log.open()
                await self._serve_store(store, signals)
        log.info("%s: all is on disk", store.path)

    async def _open_store(self) -> Store:
        # A mount that was just taken away with umount(8) leaves a daemon that still flushes.
        deadline = time.monotonic() + _HOLDER_ENDS_S
        holder = str(self._options.mountpoint)
        while True:
            try:
                return Store.open(
                    self._options.store, holder=holder, verify_reads=self._options.verify_reads
                )
            except StoreInUse:
                preflight.check_free(self._options.mountpoint)
                if self._is_store_mounted() or time.monotonic() > deadline:
                    raise
            await trio.sleep(0.1)

    def _is_store_mounted(self) -> bool:
        return any(m.is_dedupfs and m.store == self._options.store for m in mounts.mounts())

    async def _serve_store(self, store: Store, signals: AsyncIterator[int]) -> None:
        host = store.statvfs()
        settings = evicting.settings_of(self._options, host.f_blocks * host.f_frsize)
        with contextlib.closing(Vfs(store, clock=_now_ns, eviction=settings)) as vfs:
            # Again: another `dedupfs mount` may have been quicker.
            preflight.check_free(self._options.mountpoint)
            session = Session(
                vfs,
                self._options.mountpoint,
                store=store.path,
                io=self._options.io,
                allow_other=self._options.allow_other,
                extra=self._options.extra,
            )
            with contextlib.closing(session):
                await self._serve_session(store, vfs, session, signals)

    async def _serve_session(
        self, store: Store, vfs: Vfs, session: Session, signals: AsyncIterator[int]
    ) -> None:
        log.info("%s mounted on %s", store.path, self._options.mountpoint)
        listener = control.listen(store.path)
        scrubs = scrubbing.Scrubbing(store, session.forget_pages)
        evictions = evicting.Evicting(self._options, store, vfs)
        depth = self._options.evict_depth
        measures = measuring.Measuring(
            store.index, vfs.sync, depth=lambda: depth, facts=evictions.facts
        )
        files = inspecting.Inspecting(store.index, vfs, lambda: session.io_reason)
        past = history.History(store.path, lambda: self._sample(store, evictions))
        metrics = self._metrics(store, session, evictions, measures)
        answers = control.Control(
            store.path,
            {
                "status": lambda: self._status(store, session, evictions),
                "options": evictions.options_document,
            },
            {
                **scrubs.commands,
                **measures.commands,
                **files.commands,
                **past.commands,
                **evictions.commands,
            },
            evictions.slow_commands,
        )
        self._control = answers
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answers.serve, listener, name="control")
            nursery.start_soon(_reclaim, store, name="reclaim")
            nursery.start_soon(_write_back, store, name="write-back")
            nursery.start_soon(
                _checkpoint, vfs, self._options.checkpoint_interval_s, name="checkpoint"
            )
            nursery.start_soon(scrubs.serve, name="scrub")
            nursery.start_soon(measures.serve, name="measure")
            nursery.start_soon(past.serve, name="history")
            if metrics is not None:
                nursery.start_soon(metrics.serve, name="metrics")
            nursery.start_soon(_back_up, store, name="backup")
            nursery.start_soon(_signs_of_life, name="watchdog")
            nursery.start_soon(evictions.serve, name="evict")
            nursery.start_soon(self._end_on_signal, session, signals, name="signals")
            self._tell(None)
            await session.run()
            log.info("%s is no longer mounted", self._options.mountpoint)
            notify.notify(notify.STOPPING, notify.status("putting all on disk"))
            nursery.cancel_scope.cancel()

    def _status(
        self, store: Store, session: Session, evictions: evicting.Evicting
    ) -> dict[str, object]:
        live = status.LiveMount(
            mountpoint=self._options.mountpoint,
            pid=os.getpid(),
            uptime_s=int(time.monotonic() - self._started),
            io_mode=session.io_mode,
            io_reason=session.io_reason,
            listings_reason=session.listings_reason,
            requests=session.requests,
            read_bytes=session.read_bytes,
            limits=evictions.limits_document(),
            evictions=evictions.evictions_document(),
        )
        index = store.index
        return status.document(
            index.counters, store=store.path, index_bytes=index.size_bytes(), live=live
        )

    def _sample(self, store: Store, evictions: evicting.Evicting) -> history.Row:
        """Return what the history keeps of now, by its columns."""
        counters, host = store.index.counters, store.statvfs()
        written = (
            counters.followed_bytes
            + counters.matched_bytes
            + counters.unique_bytes
            + counters.zero_bytes
        )
        return (
            _now_ns() // 10**9,
            counters.logical_bytes,
            counters.allocated_bytes,
            store.index.size_bytes(),
            counters.files,
            written,
            evictions.evicted_bytes,
            host.f_bavail * host.f_frsize,
        )

    def _metrics(
        self,
        store: Store,
        session: Session,
        evictions: evicting.Evicting,
        measures: measuring.Measuring,
    ) -> Server | None:
        """Serve metrics if that is asked for. Raises MountError when it cannot be."""
        if self._options.metrics is None:
            return None
        from dedupfs.service import metrics  # noqa: PLC0415 - slow to import

        def read() -> metrics.Scrape:
            host = store.statvfs()
            document = self._status(store, session, evictions)
            document["free_bytes"] = host.f_bavail * host.f_frsize
            measures.refresh_units(metrics.UNITS_MAX_AGE_S)
            units, age_s = measures.unit_documents(metrics.UNITS_SHOWN)
            return metrics.Scrape(document, units, age_s)

        return metrics.Server(self._options.metrics, read)

    async def _end_on_signal(self, session: Session, signals: AsyncIterator[int]) -> None:
        async with trio.open_nursery() as nursery:
            unmounting = False
            async for number in signals:
                log.info("%s: unmounting", signal.Signals(number).name)
                if unmounting:
                    session.terminate()
                    return
                unmounting = True
                notify.notify(notify.STOPPING, notify.status("unmounting"))
                nursery.start_soon(self._unmount, session, name="unmount")

    async def _unmount(self, session: Session) -> None:
        """End the fuse loop; dirty pages of open files get some seconds to arrive first."""
        path = self._options.mountpoint
        with trio.move_on_after(_WRITE_BACK_S):
            try:
                await trio.to_thread.run_sync(mounts.unmount, path, abandon_on_cancel=True)
            except MountError as error:
                log.warning("%s: unmounting it under its users", error)
                await trio.to_thread.run_sync(_start_write_back, path, abandon_on_cancel=True)
                await _writes_ended(session)
        session.terminate()


async def _signs_of_life() -> None:
    interval_s = notify.watchdog_interval_s()
    while interval_s is not None:
        notify.notify(notify.WATCHDOG)
        await trio.sleep(interval_s)


def _start_write_back(mountpoint: Path) -> None:
    # For FUSE, syncfs(2) sends the dirty pages off but may return before they arrive (measured).
    fd = os.open(mountpoint, os.O_RDONLY)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(fd)
    finally:
        os.close(fd)


async def _writes_ended(session: Session) -> None:
    seen = -1
    while seen != session.requests.get("write", 0):
        seen = session.requests.get("write", 0)
        await trio.sleep(_QUIET_S)


async def _reclaim(store: Store) -> None:
    while True:
        more = False
        try:
            doomed, more = store.reclaim()
            await trio.to_thread.run_sync(remove_files, doomed)
            store.note_removed(doomed)
        except (DedupfsError, OSError) as error:
            log.warning("freeing space: %s", error)
        store.trim_memory()
        await trio.sleep(0 if more else _RECLAIM_INTERVAL_S)


async def _write_back(store: Store) -> None:
    lot = trio.lowlevel.ParkingLot()
    store.write_back.wake = lot.unpark
    while True:
        if not store.write_back.is_wanted:
            await lot.park()
        await trio.to_thread.run_sync(store.write_back.run)


async def _checkpoint(vfs: Vfs, interval_s: float) -> None:
    while True:
        await trio.sleep(interval_s)
        try:
            await vfs.sync()
        except (DedupfsError, OSError) as error:
            log.warning("checkpoint: %s", error)
        try:
            while vfs.drop_unused():
                await trio.lowlevel.checkpoint()
        except (DedupfsError, OSError) as error:
            log.warning("removed files keep their space for now: %s", error)


async def _back_up(store: Store) -> None:
    await trio.sleep(_FIRST_BACKUP_S)
    while True:
        backup = store.begin_backup()
        if backup is not None:
            await _write_backup(backup)
        await trio.sleep(_BACKUP_INTERVAL_S)


async def _write_backup(backup: Backup) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_at_end, backup)
        try:
            await trio.to_thread.run_sync(backup.write)
        except (DedupfsError, OSError) as error:
            log.warning("copy of the index: %s", error)
        nursery.cancel_scope.cancel()


async def _stop_at_end(backup: Backup) -> None:
    try:
        await trio.sleep_forever()
    finally:
        backup.stop()
