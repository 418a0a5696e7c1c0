"""A broken client must not take the mount down, and a long store path must not lose status."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from dedupfs.service import client, control

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


def explode() -> dict[str, object]:
    raise RuntimeError("boom")


OPERATIONS = {"status": lambda: {"files": 7}, "explode": explode}


@contextlib.asynccontextmanager
async def server(store: Path) -> AsyncIterator[control.Control]:
    async with trio.open_nursery() as nursery:
        served = control.Control(store, OPERATIONS)
        nursery.start_soon(served.serve, control.listen(store))
        yield served
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def raw_client(store: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as link, client.socket_address(store) as address:
        link.settimeout(10)
        link.connect(address)
        yield link


def send_raw(store: Path, data: bytes) -> dict[str, object]:
    with raw_client(store) as link:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := link.recv(65536):
                received += part
    document = json.loads(received)
    assert isinstance(document, dict)
    return document


async def ask(store: Path, operation: str = "status") -> dict[str, object] | None:
    return await trio.to_thread.run_sync(client.ask, store, operation)


async def test_a_question_is_answered(tmp_path: Path) -> None:
    async with server(tmp_path):
        assert await ask(tmp_path) == {"files": 7}


async def test_only_the_owner_may_connect_and_the_socket_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with server(tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@pytest.mark.parametrize("failure", [None, "no space left"])
async def test_a_witness_hears_how_the_end_went(tmp_path: Path, failure: str | None) -> None:
    async with server(tmp_path) as served:
        with client.witness(tmp_path) as witness:
            assert witness is not None
            assert witness.pid == os.getpid()
            with pytest.raises(TimeoutError):
                await trio.to_thread.run_sync(witness.failure, 0.1)
            with client.witness(tmp_path) as left:  # a umount of a busy mount
                assert left is not None
            await trio.sleep(0.1)
            served.farewell(failure)
            assert await trio.to_thread.run_sync(witness.failure, 5) == failure


def test_a_daemon_that_dies_silently_is_a_failure(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, client.socket_address(tmp_path) as address:
        listener.bind(address)
        listener.listen()
        with client.witness(tmp_path) as witness:
            assert witness is not None
            listener.accept()[0].close()
            assert witness.failure(5) is not None


def test_no_daemon_no_witness(tmp_path: Path) -> None:
    with client.witness(tmp_path) as witness:
        assert witness is None


async def test_a_store_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    store = tmp_path / ("d" * 200) / ("e" * 200)
    store.mkdir(parents=True)
    async with server(store):
        assert await ask(store) == {"files": 7}


async def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, client.socket_address(tmp_path) as address:
        dead.bind(address)
    assert client.ask(tmp_path, "status") is None
    async with server(tmp_path):
        assert await ask(tmp_path) == {"files": 7}


def test_no_daemon_is_no_error(tmp_path: Path) -> None:
    assert client.ask(tmp_path, "status") is None
    assert client.ask(tmp_path / "missing", "status") is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\n",
        b"hello\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b"null\n",
        b'{"op": []}\n',
        b'{"op": "erase"}\n',
        b'{"op": "status"',
        b"[" * 4000 + b"\n",
        b"x" * 1_000_000,
    ],
    ids=lambda raw: repr(raw[:12]),
)
async def test_garbage_is_refused_and_the_next_client_is_served(
    tmp_path: Path, garbage: bytes
) -> None:
    async with server(tmp_path):
        reply = await trio.to_thread.run_sync(send_raw, tmp_path, garbage)
        assert "request" in str(reply["error"])
        assert await ask(tmp_path) == {"files": 7}


def json_values() -> st.SearchStrategy[object]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    nested = st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
    )
    named = st.fixed_dictionaries({"op": st.sampled_from(["status", "explode", "scrub"]) | nested})
    return nested | st.builds(lambda a, b: {**b, **a}, named, st.dictionaries(st.text(), nested))


async def test_fuzz_any_request_gets_one_answer_and_the_server_lives(tmp_path: Path) -> None:
    """A tool that speaks another version, or a port scanner, must not end a training run."""
    requests = st.binary(max_size=300) | json_values().map(
        lambda value: json.dumps(value).encode() + b"\n"
    )

    def fuzz() -> None:
        @settings(max_examples=300, deadline=None, derandomize=True)
        @given(requests)
        def one(raw: bytes) -> None:
            assert send_raw(tmp_path, raw)

        one()

    async with server(tmp_path):
        await trio.to_thread.run_sync(fuzz)
        assert await ask(tmp_path) == {"files": 7}


async def test_a_client_that_leaves_early_harms_nobody(tmp_path: Path) -> None:
    async with server(tmp_path):
        for _ in range(100):
            with raw_client(tmp_path) as link:
                link.send(b'{"op": "status"}\n')
            await trio.lowlevel.checkpoint()
        assert await ask(tmp_path) == {"files": 7}


async def test_slow_clients_are_dropped_and_do_not_block_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENT_TIMEOUT_S", 0.2)
    async with server(tmp_path):
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(raw_client(tmp_path)) for _ in range(20)]
            assert await ask(tmp_path) == {"files": 7}
            await trio.sleep(0.5)
            assert slow[0].recv(10) == b""


async def test_a_bug_in_an_answer_does_not_end_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with server(tmp_path):
        with pytest.raises(client.ControlError, match="internal error"):
            await ask(tmp_path, "explode")
        assert await ask(tmp_path) == {"files": 7}
    assert "boom" in caplog.text


def test_a_mute_daemon_is_one_clear_error(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute, client.socket_address(tmp_path) as address:
        mute.bind(address)
        mute.listen()
        with pytest.raises(client.ControlError, match="does not answer in"):
            client.ask(tmp_path, "status", timeout_s=0.2)
