"""The commands' side of a store's control socket: one JSON line asked, one JSON line answered."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import DedupfsError
from dedupfs.core.format import STORE_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REPLY_MAX_BYTES: Final = 1 << 20
TIMEOUT_S: Final = 10.0
WAIT: Final = "wait"
_UCRED: Final = struct.Struct("iii")  # unix(7), SO_PEERCRED: pid, uid, gid


class ControlError(DedupfsError):
    """The daemon does not answer as it should."""


@contextlib.contextmanager
def socket_address(store: Path) -> Iterator[str]:
    """Yield an address of the store's socket that is short however long the path is (unix(7))."""
    fd = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{STORE_FILES['control']}"
    finally:
        os.close(fd)


@contextlib.contextmanager
def _connected(store: Path, deadline: float) -> Iterator[socket.socket | None]:
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        link.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            link.connect(stack.enter_context(socket_address(store)))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            yield None
            return
        yield link


def ask(
    store: Path,
    operation: str,
    arguments: Mapping[str, object] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, object] | None:
    """Return the daemon's answer to `operation`, or None when no daemon serves the store.

    Raises ControlError when it refuses or does not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with _connected(store, deadline) as link:
            if link is None:
                return None
            link.sendall(json.dumps({"op": operation, **(arguments or {})}).encode() + b"\n")
            return _result(_receive_line(link, deadline))
    except TimeoutError:
        raise ControlError(f"the daemon of {store} does not answer in {timeout_s:g} s") from None
    except OSError as error:
        raise _refused(store, error) from None


class Witness:
    """Connected to a daemon until its end, to hear whether all is on disk."""

    def __init__(self, link: socket.socket) -> None:
        """Ask to be told."""
        self._link = link
        link.sendall(json.dumps({"op": WAIT}).encode() + b"\n")
        raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        self.pid: int = _UCRED.unpack(raw)[0]

    def failure(self, timeout_s: float) -> str | None:
        """Return None when all is on disk, else what went wrong; raises TimeoutError."""
        try:
            line = _receive_line(self._link, time.monotonic() + timeout_s)
            _result(line)
        except ControlError as error:
            return str(error)
        except ConnectionError as error:
            return str(error.strerror)
        return None


@contextlib.contextmanager
def witness(store: Path) -> Iterator[Witness | None]:
    """Yield a witness of the end of the store's daemon; None when no daemon serves the store."""
    try:
        with _connected(store, time.monotonic() + TIMEOUT_S) as link:
            yield Witness(link) if link is not None else None
    except OSError as error:
        raise _refused(store, error) from None


def not_yours(store: Path) -> str:
    """Say why a store cannot be looked into."""
    return f"store {store} belongs to another user: ask as that user, or as root"


def _refused(store: Path, error: OSError) -> ControlError:
    if isinstance(error, PermissionError):
        return ControlError(not_yours(store))
    return ControlError(f"control socket of {store}: {error.strerror or error}")


def _receive_line(link: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= REPLY_MAX_BYTES:
        link.settimeout(max(deadline - time.monotonic(), 0.01))
        part = link.recv(65536)
        if not part:
            break
        received += part
    return bytes(received)


def _result(line: bytes) -> dict[str, object]:
    if not line:
        raise ControlError("the daemon ended without an answer")
    try:
        reply = json.loads(line)
    except ValueError:
        raise ControlError("the daemon gave no proper answer") from None
    result = reply.get("result") if isinstance(reply, dict) else None
    if isinstance(result, dict):
        return result
    reason = reply.get("error") if isinstance(reply, dict) else None
    raise ControlError(f"{reason or 'the daemon gave no proper answer'}")
