"""The handshake: without it each small write takes two requests; done wrong, nothing mounts."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from dedupfs.fuse import handshake

if TYPE_CHECKING:
    from collections.abc import Iterator

AUTO_INVAL, SYMLINKS, EXPLICIT_INVAL, KILLPRIV_V2 = 1 << 12, 1 << 23, 1 << 25, 1 << 28
ALL = AUTO_INVAL | SYMLINKS | EXPLICIT_INVAL | KILLPRIV_V2
OTHERS = 1 << 3 | 1 << 30


def request(flags: int, opcode: int = 26, flags2: int = 0) -> bytes:
    body = struct.pack("=IIIII", 7, 45, 1 << 17, flags, flags2) + bytes(44)
    return struct.pack("=IIQQIIII", 40 + len(body), opcode, 2, 0, 0, 0, 0, 0) + body


def reply(flags: int, error: int = 0) -> bytes:
    body = struct.pack("=IIII", 7, 31, 1 << 17, flags) + bytes(48)
    return struct.pack("=IiQ", 16 + len(body), error, 2) + body


def flags_of(answer: bytes) -> int:
    (flags,) = struct.unpack_from("=I", answer, 28)
    return int(flags)


def test_all_that_is_offered_is_asked_for() -> None:
    answer, _granted = handshake.amend(request(ALL | OTHERS), reply(AUTO_INVAL | OTHERS))
    assert flags_of(answer) == SYMLINKS | EXPLICIT_INVAL | KILLPRIV_V2 | OTHERS
    assert answer[:28] == reply(0)[:28]
    assert answer[32:] == reply(0)[32:]


def test_an_older_kernel_is_asked_for_nothing_it_lacks() -> None:
    """It would refuse the mount, or mean something else by the bit."""
    answer = handshake.amend(request(AUTO_INVAL | OTHERS), reply(AUTO_INVAL | OTHERS))
    assert answer == (reply(AUTO_INVAL | OTHERS), False)


def test_a_request_may_touch_a_page_more_than_it_is_long() -> None:
    """Else 1 MiB from a buffer that starts within a page is two requests."""
    asked = bytearray(reply(0))
    struct.pack_into("=H", asked, 16 + 28, 256)
    answer, _granted = handshake.amend(request(0), bytes(asked))
    assert struct.unpack_from("=H", answer, 16 + 28) == (257,)
    struct.pack_into("=H", asked, 16 + 28, 32)
    assert handshake.amend(request(0), bytes(asked))[0] == bytes(asked), "libfuse wants small ones"


INIT_EXT, PASSTHROUGH, WRITEBACK = 1 << 30, 1 << 5, 1 << 16


def test_passthrough_is_asked_for_with_its_stack_depth() -> None:
    """At any other place of the reply the kernel would read another wish."""
    answer, granted = handshake.amend(request(INIT_EXT, flags2=PASSTHROUGH), reply(0), 2)
    assert granted
    assert flags_of(answer) == INIT_EXT
    assert struct.unpack_from("=II", answer, 16 + 32) == (PASSTHROUGH, 2)


@pytest.mark.parametrize(
    ("flags", "flags2", "answered", "depth"),
    [
        (0, PASSTHROUGH, 0, 1),  # no second word: these bits mean something else
        (INIT_EXT, 0, 0, 1),  # Linux before 6.9
        (INIT_EXT, PASSTHROUGH, WRITEBACK, 1),  # the kernel allows one of the two
        (INIT_EXT, PASSTHROUGH, 0, 0),  # not wanted
    ],
)
def test_passthrough_is_left_alone_where_it_cannot_be(
    flags: int, flags2: int, answered: int, depth: int
) -> None:
    answer = handshake.amend(request(flags, flags2=flags2), reply(answered), depth)
    assert answer == (reply(answered), False)


def test_a_refusal_and_other_requests_pass_unchanged() -> None:
    refusal = reply(AUTO_INVAL, error=-71)
    assert handshake.amend(request(ALL), refusal) == (refusal, False)
    answer = reply(AUTO_INVAL)
    assert handshake.amend(request(ALL, opcode=3), answer) == (answer, False)


@pytest.fixture
def device() -> Iterator[tuple[int, socket.socket]]:
    """A descriptor in place of /dev/fuse, and the kernel's end of it."""
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = ours.detach()
    yield fd, kernel
    os.close(fd)
    kernel.close()


async def test_init_is_answered_and_the_device_given_back(
    device: tuple[int, socket.socket],
) -> None:
    fd, kernel = device
    kernel.send(request(ALL))
    started = []

    async def serve() -> None:
        started.append(1)
        await trio.lowlevel.wait_readable(fd)
        assert os.read(fd, 100_000) == request(ALL)
        os.write(fd, reply(AUTO_INVAL))
        await trio.sleep_forever()

    before = os.fstat(fd).st_ino
    await handshake.negotiate(fd, serve)
    assert flags_of(kernel.recv(1000)) == ALL & ~AUTO_INVAL
    assert os.fstat(fd).st_ino == before
    kernel.send(b"next request")
    await trio.lowlevel.wait_readable(fd)
    assert os.read(fd, 100) == b"next request"
    assert started == [1]


async def test_a_mount_that_ends_at_once_does_not_hang_the_daemon(
    device: tuple[int, socket.socket],
) -> None:
    fd, kernel = device
    kernel.send(request(ALL))

    async def serve() -> None:
        """End as after a signal: without an answer."""

    before = os.fstat(fd).st_ino
    with trio.fail_after(5):
        await handshake.negotiate(fd, serve)
    assert os.fstat(fd).st_ino == before
