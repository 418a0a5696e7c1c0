"""Fixtures: a mount, a virtual environment for each client, and ranks that run at once in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clients import hub
from mount.conftest import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mount.mounted import Mounted

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".clients"
RANKS = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only `make clients` runs these: they install a gigabyte of libraries."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.timeout(900))


def environment_python(name: str) -> Path:
    """Return the Python of the client's own virtual environment; make it if need be."""
    lock = HERE / "locks" / f"{name}.txt"
    folder = ENVIRONMENTS / name
    stamp = folder / "stamp"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [folder / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-r", lock], check=True, stdin=subprocess.DEVNULL)
        stamp.write_text(wanted)
    return folder / "bin/python"


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mounted]:
    """A mount with the mode a user gets by default."""
    with mounted(tmp_path, "auto") as one:
        yield one


@pytest.fixture
def server() -> Iterator[str]:
    """The loopback hub's address."""
    with hub.serving() as address:
        yield address


class Ranks:
    """Processes of one program. Each answers one line of JSON, then waits for the release."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    def answers(self) -> list[dict[str, Any]]:
        """Return what each rank said, once all have."""
        found = []
        for rank, process in enumerate(self._processes):
            assert process.stdout is not None
            line = ""
            for text in process.stdout:
                if text.startswith("{"):
                    line = text
                    break
            assert line, f"rank {rank} ended with {process.wait()} and no answer"
            found.append(json.loads(line))
        return found

    def release(self) -> None:
        """Let them end; all must end well."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for rank, process in enumerate(self._processes):
            assert process.wait(timeout=120) == 0, f"rank {rank} ended with {process.returncode}"
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def ranks() -> Iterator[Callable[..., Ranks]]:
    """Return `start(environment, program, *arguments, env={}, count=4)`.

    `{rank}` in an argument or a value of `env` is the rank's number.
    """
    with contextlib.ExitStack() as stack:

        def start(
            environment: str,
            program: str,
            *arguments: object,
            env: Mapping[str, str] | None = None,
            count: int = RANKS,
        ) -> Ranks:
            python = environment_python(environment)
            processes = []
            for rank in range(count):
                values = {k: v.format(rank=rank) for k, v in (env or {}).items()}
                words = [str(argument).format(rank=rank) for argument in arguments]
                process = subprocess.Popen(
                    [python, HERE / "programs" / program, *words],
                    env={**os.environ, "HF_HUB_DISABLE_XET": "1", **values},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                stack.callback(_end, process)
                processes.append(process)
            return Ranks(processes)

        yield start


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


@pytest.fixture
def saving(
    mount: Mounted, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], float]:
    """Return a function that prints logical against physical bytes, and returns the ratio."""

    def show(what: str = "") -> float:
        status = mount.status()
        logical, allocated = status["logical_bytes"], status["allocated_bytes"]
        assert isinstance(logical, int)
        assert isinstance(allocated, int)
        with capsys.disabled():
            name = what or request.node.name.removeprefix("test_")
            print(
                f"\n{name}: {logical / 2**20:,.1f} MiB written, {allocated / 2**20:,.1f} MiB on "
                f"disk, ratio {logical / allocated:.3f}"
            )
        return logical / allocated

    return show
