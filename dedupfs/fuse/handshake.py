"""The INIT handshake, amended: asks the kernel for what pyfuse3 and libfuse 3.14 cannot ask.

libfuse answers INIT over a socket that stands in for /dev/fuse; its answer is amended on the way to
the device, and the device takes its place again. What is asked for, where the kernel offers it:

- HANDLE_KILLPRIV_V2: else the kernel asks for security.capability before each write(2): one request
  more for each, and the only one with the writeback cache. In return setuid and setgid bits are
  ours to clear (SetAttr.drops_privileges), as fs/fuse/dir.c and file.c say.
- EXPLICIT_INVAL_DATA for AUTO_INVAL_DATA: else what was written through the page cache is dropped
  from it as soon as stat shows the new mtime. All changes come through the kernel: nothing it
  holds is stale.
- CACHE_SYMLINKS: a target never changes.
- A page more in a request, where libfuse asks for 1 MiB: see session.py.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

# include/uapi/linux/fuse.h
_AUTO_INVAL_DATA: Final = 1 << 12
_CACHE_SYMLINKS: Final = 1 << 23
_EXPLICIT_INVAL_DATA: Final = 1 << 25
_HANDLE_KILLPRIV_V2: Final = 1 << 28
_WRITEBACK_CACHE: Final = 1 << 16
_INIT_EXT: Final = 1 << 30  # there is a second word of flags
_PASSTHROUGH: Final = 1 << (37 - 32)  # in the second word
_WANTED: Final = _CACHE_SYMLINKS | _EXPLICIT_INVAL_DATA | _HANDLE_KILLPRIV_V2
_OPCODE_INIT: Final = 26

_IN_HEAD: Final = struct.Struct("=IIQQIII4x")  # length, opcode, unique, nodeid, uid, gid, pid
_OUT_HEAD: Final = struct.Struct("=IiQ")  # length, error, unique
_FLAGS: Final = struct.Struct("=I")
_FLAGS_AT: Final = 12  # in both bodies: behind major, minor, max_readahead
_FLAGS2_IN_AT: Final = 16  # behind flags
_PAGES: Final = struct.Struct("=H")
_MAX_PAGES_AT: Final = 28
REQUEST_PAGES: Final = 257  # 1 MiB that starts within a page
_FLAGS2_OUT_AT: Final = 32  # of struct fuse_init_out
_STACK_DEPTH_AT: Final = 36

assert _IN_HEAD.size == 40, "struct fuse_in_header"  # noqa: PLR2004
assert _OUT_HEAD.size == 16, "struct fuse_out_header"  # noqa: PLR2004

# The kernel refuses to hand requests to a reader with less room than its largest write.
_REQUEST_BYTES: Final = (1 << 20) + 4096


def find_device() -> int | None:
    """Return this process's descriptor of /dev/fuse, None unless there is exactly one."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names, not paths
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":  # noqa: PTH115
                found.append(int(name))
        except FileNotFoundError:
            continue
    return found[0] if len(found) == 1 else None


async def negotiate(
    device: int, serve: Callable[[], Awaitable[None]], *, stack_depth: int = 0
) -> bool:
    """Answer INIT through `serve`, which handles requests from descriptor `device`.

    `serve` is cancelled once it has answered, and must be started again for what follows. When the
    mount ends meanwhile, this returns, and `serve` will find out. `stack_depth` > 0 asks for
    passthrough to files of so many file systems on one another; returns whether it is granted.
    """
    granted = False
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    real = os.dup(device)
    try:
        with theirs:
            await trio.lowlevel.wait_readable(real)
            request = os.read(real, _REQUEST_BYTES)
            os.dup2(theirs.fileno(), device, inheritable=False)
        ours.send(request)
        if await _is_answered(ours, serve):
            reply, granted = amend(request, ours.recv(_REQUEST_BYTES), stack_depth)
            os.write(real, reply)
    except OSError as error:
        log.info("the mount ended before it began: %s", error)
    finally:
        os.dup2(real, device, inheritable=False)
        os.close(real)
        ours.close()
    return granted


async def _is_answered(answers: socket.socket, serve: Callable[[], Awaitable[None]]) -> bool:
    """Run `serve` until there is an answer, or it ends by itself."""
    found = False

    async def run() -> None:
        await serve()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.lowlevel.wait_readable(answers)
        found = True
        nursery.cancel_scope.cancel()
    return found


def amend(request: bytes, reply: bytes, stack_depth: int = 0) -> tuple[bytes, bool]:
    """Return libfuse's reply to INIT with the wanted flags that the request offers.

    And whether passthrough is among them, which `stack_depth` > 0 asks for.
    """
    _, opcode, *_ = _IN_HEAD.unpack_from(request)
    _, error, _ = _OUT_HEAD.unpack_from(reply)
    if opcode != _OPCODE_INIT or error != 0:
        return reply, False
    (offered,) = _FLAGS.unpack_from(request, _IN_HEAD.size + _FLAGS_AT)
    (flags,) = _FLAGS.unpack_from(reply, _OUT_HEAD.size + _FLAGS_AT)
    flags |= offered & _WANTED
    if flags & _EXPLICIT_INVAL_DATA:
        flags &= ~_AUTO_INVAL_DATA
    log.debug("INIT: offered %#x, taken %#x", offered, flags)
    amended = bytearray(reply)
    _FLAGS.pack_into(amended, _OUT_HEAD.size + _FLAGS_AT, flags)
    granted = stack_depth > 0 and _offers_passthrough(request) and not flags & _WRITEBACK_CACHE
    if granted:
        _FLAGS.pack_into(amended, _OUT_HEAD.size + _FLAGS_AT, flags | _INIT_EXT)
        _FLAGS.pack_into(amended, _OUT_HEAD.size + _FLAGS2_OUT_AT, _PASSTHROUGH)
        _FLAGS.pack_into(amended, _OUT_HEAD.size + _STACK_DEPTH_AT, stack_depth)
    (pages,) = _PAGES.unpack_from(reply, _OUT_HEAD.size + _MAX_PAGES_AT)
    if pages == REQUEST_PAGES - 1:
        _PAGES.pack_into(amended, _OUT_HEAD.size + _MAX_PAGES_AT, REQUEST_PAGES)
    return bytes(amended), granted


def _offers_passthrough(request: bytes) -> bool:
    (flags,) = _FLAGS.unpack_from(request, _IN_HEAD.size + _FLAGS_AT)
    if not flags & _INIT_EXT:
        return False
    (flags2,) = _FLAGS.unpack_from(request, _IN_HEAD.size + _FLAGS2_IN_AT)
    return bool(flags2 & _PASSTHROUGH)
