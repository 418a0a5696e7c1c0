"""The child process of the conformance suite: runs cases in a folder, writes down the answers.

    python -m mount.conformance.runner run FOLDER OUT GROUP...     the answers of each case
    python -m mount.conformance.runner look FOLDER OUT             every object there, exactly

Single-threaded and root, so it can take other users' ids for one call. Cases run side by side,
step by step, each in a folder of its own: the clock must tick between two steps, and so it need
tick only once for a whole batch.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from mount.conformance import cases, snapshot, syscalls
from mount.conformance.calls import CALLS, READING, Session
from mount.conformance.model import ROOT, Case, Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_BATCH: Final = 250
_TICK_S: Final = 0.012  # three jiffies at 250 Hz: what a file system takes for now moves on
_HANG_S: Final = 20


class _Hang(Exception):
    """A call did not come back."""


def _on_alarm(_signum: int, _frame: FrameType | None) -> None:
    raise _Hang


@contextlib.contextmanager
def _as(step: Step) -> Iterator[None]:
    if step.who is not ROOT:
        syscalls.become(step.who.uid, step.who.gid, step.who.groups, step.umask)
    else:
        os.umask(step.umask)
    try:
        yield
    finally:
        if step.who is not ROOT:
            syscalls.become(0, 0, (), 0)


def answer(session: Session, step: Step) -> object:
    """Run one step; return its result, or the name of its errno."""
    signal.setitimer(signal.ITIMER_REAL, _HANG_S)
    try:
        with _as(step):
            result = CALLS[step.call](session, *step.args)
    except OSError as error:
        return syscalls.answer(error.errno)
    except KeyError as error:
        return f"no open file {error}"
    except _Hang:
        return "HANG"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "ok" if result is None else result


def _prepare(session: Session, case: Case) -> None:
    os.mkdir(session.folder)
    os.chmod(session.folder, 0o777)
    os.chdir(session.folder)
    for step in case.setup:
        result = answer(session, step)
        assert not isinstance(result, str) or not result.startswith(("E", "HANG", "no open")), (
            f"{case.name}: the setup {step} answered {result}"
        )


def run_batch(batch: list[tuple[Case, Session]], clock: snapshot.Clock) -> dict[str, object]:
    """Run some cases side by side; return, by case, each step's result and changes."""
    before, found = {}, {}
    for case, session in batch:
        try:
            _prepare(session, case)
        except (AssertionError, OSError) as error:
            found[case.name] = {"setup": str(error), "steps": []}
            continue
        before[case.name] = snapshot.tree(session.folder)
        found[case.name] = {"steps": []}
    for number in range(max(len(case.act) for case, _ in batch)):
        time.sleep(_TICK_S)
        for case, session in batch:
            if number >= len(case.act) or case.name not in before:
                continue
            step = case.act[number]
            os.chdir(session.folder)
            result = answer(session, step)
            after = snapshot.tree(session.folder)
            changes = snapshot.describe(
                before[case.name], after, clock, atime=step.call not in READING
            )
            found[case.name]["steps"].append({"result": result, "changes": changes})
            before[case.name] = after
    for case, session in batch:
        os.chdir("/")
        session.close()
        if case.name in before:
            found[case.name]["contents"] = snapshot.contents(session.folder)
    return found


def run(folder: str, groups: list[str]) -> dict[str, object]:
    """Run whole groups; return the answers by case."""
    clock = snapshot.Clock(time.time_ns())
    found: dict[str, object] = {}
    for group in groups:
        os.makedirs(f"{folder}/{group}")
        todo = cases.GROUPS[group]()
        for start in range(0, len(todo), _BATCH):
            batch = [
                (case, Session(f"{folder}/{group}/{start + number}"))
                for number, case in enumerate(todo[start : start + _BATCH])
            ]
            found.update(run_batch(batch, clock))
    return found


def look(folder: str) -> dict[str, object]:
    """Return every object below, exactly."""
    return dict(snapshot.exact(folder))


def main() -> None:
    """Do what the command line says."""
    mode, folder, out, *groups = sys.argv[1:]
    folder = os.path.abspath(folder)
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    os.umask(0)
    os.setgroups([])
    found = run(folder, groups) if mode == "run" else look(folder)
    with open(out, "w", encoding="ascii") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
