"""The FUSE session: mounts, serves until the mount ends, unmounts. One for a process."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from dedupfs.core.errors import MountError
from dedupfs.core.types import IoMode
from dedupfs.fuse import handshake, passthrough, replies, waiting
from dedupfs.fuse.operations import Operations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dedupfs.core.types import Ino
    from dedupfs.vfs.vfs import Vfs

log = logging.getLogger(__name__)

# The kernel asks for at most 1 MiB at once: this keeps several such requests under way.
READ_AHEAD_KIB: Final = 4096
_PAGES_LIMIT: Final = Path("/proc/sys/fs/fuse/max_pages_limit")
FUSE_CONF: Final = Path("/etc/fuse.conf")


class _Option(str):
    """A mount option. pyfuse3 encodes options as ASCII; a path may be any bytes."""

    __slots__ = ()

    def encode(self, _encoding: str = "", _errors: str = "") -> bytes:  # type: ignore[explicit-override]
        return os.fsencode(str(self))


class Session:
    """A mounted file system. `close` unmounts it, whatever happened before."""

    def __init__(
        self,
        vfs: Vfs,
        mountpoint: Path,
        *,
        store: Path,
        io: IoMode = IoMode.AUTO,
        allow_other: bool = False,
        extra: Sequence[str] = (),
    ) -> None:
        """Mount; the mount table shows `store` as the device. Raises MountError."""
        self._vfs = vfs
        self._mountpoint = mountpoint
        self._io = io
        self._why_not = passthrough.why_not()
        # The kernel allows one of the two: passthrough, or the writeback cache.
        is_writeback = io is IoMode.WRITEBACK or (io is IoMode.AUTO and self._why_not is not None)
        self.io_mode = IoMode.WRITEBACK if is_writeback else IoMode.PASSTHROUGH
        self._stack_depth = 0
        if not is_writeback and self._why_not is None:
            self._stack_depth = passthrough.stack_depth(store)
        self._operations = Operations(vfs, writeback=is_writeback)
        _raise_request_pages()
        vfs.serve_kernel(
            forget_name=_forget_name,
            forget_attributes=_forget_attributes,
            forget_listing=_forget_pages_of_directory,
            keeps_times=is_writeback,
        )
        source = _escape(str(store))
        options = {"default_permissions", "subtype=dedupfs", f"fsname={source}", *extra}
        if allow_other:
            _check_allow_other()
            options.add("allow_other")
        try:
            pyfuse3.init(self._operations, str(mountpoint), {_Option(text) for text in options})
        except RuntimeError as error:
            if os.geteuid() == 0 and not passthrough.is_sys_admin():
                # libfuse asks fusermount3 then, which has no more rights than this container.
                raise MountError(
                    f"cannot mount on {mountpoint}: CAP_SYS_ADMIN is missing: "
                    "start the container with --cap-add SYS_ADMIN"
                ) from error
            raise MountError(
                f"cannot mount on {mountpoint}: {error} (libfuse says why on standard error)"
            ) from error

    @property
    def io_reason(self) -> str:
        """Why that mode is in force, and what is missing."""
        why = self._why_not or self._vfs.passthrough.failure
        if self._io is IoMode.WRITEBACK:
            return "asked for"
        if why:
            return f"no passthrough, reads take the ordinary path: {why}"
        why = self._vfs.passthrough.why_not_prepared
        others = f"others take the ordinary path: {why}" if why else "others from reflinks"
        return f"files that equal a segment are read from it directly, {others}"

    @property
    def listings_reason(self) -> str | None:
        """Why the kernel keeps no listings, None when it does."""
        if replies.extension() is not None:
            return None
        return replies.why_missing() or "the session was not mounted through the C extension"

    @property
    def requests(self) -> Mapping[str, int]:
        """How many requests of each kind have come."""
        return self._operations.requests

    @property
    def read_bytes(self) -> int:
        """How many bytes were read through this process: not past it, not from kernel caches."""
        return self._operations.read_bytes

    async def run(self) -> None:
        """Serve until the mount ends."""
        extension = replies.extension()
        self._vfs.enable_kept_listings(on=extension is not None)
        if extension is not None:
            self._vfs.settle_after(extension.after_reply)
        device = handshake.find_device()
        if device is None:
            log.warning("no /dev/fuse descriptor found: each write will take two requests")
        else:
            granted = await handshake.negotiate(device, pyfuse3.main, stack_depth=self._stack_depth)
            self._enable_passthrough(granted=granted)
            if extension is not None:
                waiting.install(device)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._raise_read_ahead, name="read-ahead")
            await pyfuse3.main()
            nursery.cancel_scope.cancel()

    def _enable_passthrough(self, *, granted: bool) -> None:
        table = replies.extension()
        if granted and table is not None:
            self._vfs.passthrough.enable(table)
        elif self._stack_depth:
            self._why_not = "the kernel does not offer it"
        if self._why_not is not None and self._io is not IoMode.WRITEBACK:
            log.info("%s", self.io_reason)

    def terminate(self) -> None:
        """Let `run` return."""
        pyfuse3.terminate()

    def close(self) -> None:
        """Unmount, lazily if it is in use."""
        pyfuse3.close(unmount=True)

    async def forget_pages(self, ino: int) -> None:
        """Let the kernel drop what it has cached of a file, where it can."""
        # From a thread: the kernel may first have to write dirty pages back, to us.
        with contextlib.suppress(OSError):
            await trio.to_thread.run_sync(pyfuse3.invalidate_inode, pyfuse3.InodeT(ino))

    async def _raise_read_ahead(self) -> None:
        # The kernel's own limit is set when the mount answers its first request: not before that.
        # Asked from a thread, as this one gives the answer.
        try:
            await trio.to_thread.run_sync(
                raise_read_ahead, self._mountpoint, abandon_on_cancel=True
            )
        except OSError as error:
            log.info("read-ahead stays as it is: %s", error)


def _raise_request_pages() -> None:
    """Let a write of 1 MiB that starts within a page be one request: it touches a page more.

    Measured: 4.0 GB/s of duplicate 1 MiB writes against 2.1 GB/s. Before the mount, which takes
    the limit as it finds it. Linux before 6.13 has no such knob.
    """
    try:
        if int(_PAGES_LIMIT.read_text()) < handshake.REQUEST_PAGES:
            _PAGES_LIMIT.write_text(f"{handshake.REQUEST_PAGES}\n")
    except OSError as error:
        log.info("%s stays as it is: %s", _PAGES_LIMIT, error)


def _forget_name(parent: Ino, name: bytes) -> None:
    pyfuse3.invalidate_entry_async(
        pyfuse3.InodeT(parent), pyfuse3.FileNameT(name), ignore_enoent=True
    )


def _forget_pages_of_directory(ino: Ino) -> None:
    # They hold its listing (fs/fuse/readdir.c), are never dirty, and never locked in a request.
    with contextlib.suppress(OSError):
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino))


def _forget_attributes(ino: Ino) -> None:
    # Attributes only: it takes no lock that a request could hold (fuse_reverse_inval_inode).
    with contextlib.suppress(OSError):
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=True)


def raise_read_ahead(mountpoint: Path) -> None:
    """Let the kernel read ahead READ_AHEAD_KIB on this mount. Blocks until the mount answers.

    Raises OSError where that is not permitted.
    """
    device = mountpoint.stat().st_dev
    knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if int(knob.read_text()) < READ_AHEAD_KIB:
        knob.write_text(f"{READ_AHEAD_KIB}\n")


def _escape(value: str) -> str:
    # libfuse splits option lists at commas and takes a backslash as quoting (fuse_opt.c).
    return value.replace("\\", "\\\\").replace(",", "\\,")


def _check_allow_other() -> None:
    if os.geteuid() == 0:
        return
    try:
        lines = FUSE_CONF.read_text().splitlines()
    except OSError:
        lines = []
    if "user_allow_other" not in (line.strip() for line in lines):
        raise MountError(
            f"--allow-other needs the line user_allow_other in {FUSE_CONF}: ask root to add it"
        )
