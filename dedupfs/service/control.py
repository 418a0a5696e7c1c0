"""The daemon's side of the control socket: bounded requests, bounded time, never a crash."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

from dedupfs.core.format import STORE_FILES
from dedupfs.service.client import WAIT, socket_address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from pathlib import Path

    Operation = Callable[[], dict[str, object]]
    Command = Callable[[Mapping[str, object]], dict[str, object]]
    SlowCommand = Callable[[Mapping[str, object]], Awaitable[dict[str, object]]]

log = logging.getLogger(__name__)

REQUEST_MAX_BYTES: Final = 4096
CLIENT_TIMEOUT_S: Final = 5.0
CLIENTS_MAX: Final = 32


class BadRequest(Exception):
    """A client sent something that is no request."""


def listen(store: Path) -> trio.SocketListener:
    """Return a listener on the store's socket, mode 0600; the caller holds the store's lock.

    So a socket that is there already was left by a dead process.
    """
    (store / STORE_FILES["control"]).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)
        try:
            with socket_address(store) as address:
                listener.bind(address)
        finally:
            os.umask(mask)
        listener.listen(CLIENTS_MAX)
        return trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    except BaseException:
        listener.close()
        raise


class Control:
    """Answers clients. `wait` is built in: who asked for it hears at the end how it went."""

    def __init__(
        self,
        store: Path,
        operations: Mapping[str, Operation],
        commands: Mapping[str, Command] | None = None,
        slow_commands: Mapping[str, SlowCommand] | None = None,
    ) -> None:
        """By the request's name: `operations` and `commands` make answers, these of the request.

        `slow_commands` may take as long as they like; they are cancelled when the mount ends.
        """
        self._slow_commands = slow_commands or {}
        self._store = store
        self._operations = operations
        self._commands = commands or {}
        self._witnesses: list[socket.socket] = []

    async def serve(self, listener: trio.SocketListener) -> None:
        """Answer until cancelled, then remove the socket."""
        try:
            await trio.serve_listeners(self._answer, [listener])
        finally:
            (self._store / STORE_FILES["control"]).unlink(missing_ok=True)

    def farewell(self, failure: str | None) -> None:
        """Tell all witnesses that everything is on disk, or why not. Not for use inside trio."""
        reply: dict[str, object] = {"result": {}} if failure is None else {"error": failure}
        for witness in self._witnesses:
            with witness, contextlib.suppress(OSError):
                witness.send(json.dumps(reply).encode() + b"\n")
        self._witnesses.clear()

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            with (
                trio.move_on_after(CLIENT_TIMEOUT_S) as scope,
                contextlib.suppress(trio.BrokenResourceError),
            ):
                line = await _request_line(stream)
                reply = await self._reply(line, stream, scope)
                if reply is not None:
                    await stream.send_all(json.dumps(reply).encode() + b"\n")

    async def _reply(
        self, line: bytes, stream: trio.SocketStream, scope: trio.CancelScope
    ) -> dict[str, object] | None:
        try:
            known = (*self._operations, *self._commands, *self._slow_commands, WAIT)
            name, request = _parse(line, known)
            if name == WAIT:
                self._admit(stream)
                return None
            if name in self._commands:
                return {"result": self._commands[name](request)}
            if name in self._slow_commands:
                scope.deadline = math.inf
                result = await self._slow_commands[name](request)
                scope.deadline = trio.current_time() + CLIENT_TIMEOUT_S
                return {"result": result}
            return {"result": self._operations[name]()}
        except BadRequest as error:
            return {"error": str(error)}
        except Exception:
            # A bug in an answer must not end a mount that others write to.
            log.exception("control socket: bug")
            return {"error": "internal error, see the daemon's log"}

    def _admit(self, stream: trio.SocketStream) -> None:
        if len(self._witnesses) >= CLIENTS_MAX:
            self._witnesses.pop(0).close()
        # A descriptor of its own: it outlives trio's.
        witness = socket.socket(fileno=os.dup(stream.socket.fileno()))
        witness.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._witnesses.append(witness)


async def _request_line(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    while b"\n" not in received and len(received) <= REQUEST_MAX_BYTES:
        part = await stream.receive_some(REQUEST_MAX_BYTES)
        if not part:
            break
        received += part
    return bytes(received)


def _parse(line: bytes, operations: Collection[str]) -> tuple[str, dict[str, object]]:
    """Return the request and the operation it names."""
    if len(line) > REQUEST_MAX_BYTES:
        raise BadRequest(f"request: more than {REQUEST_MAX_BYTES} bytes")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRequest("request: want one line of JSON") from None
    operation = request.get("op") if isinstance(request, dict) else None
    if not isinstance(operation, str) or operation not in operations:
        raise BadRequest(f"request: want one of the operations {', '.join(operations)}")
    return operation, request
