"""Running a command as if it had been started directly: its terminal, its signals, its exit code.

At a terminal the command shares this process's group, so that Ctrl-C, Ctrl-Z and the shell's job
control reach it as they reach any command; a signal that someone sent to this process alone is
handed to the command. Without one it gets a group of its own, and the whole group gets the signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.core.errors import DedupfsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
SIGNALLED: Final = 128
_FORWARDED: Final = frozenset(
    {
        signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1,
        signal.SIGUSR2,
    }
)  # fmt: skip
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
_SI_KERNEL: Final = 0x80  # sigaction(2): not sent by a process; Ctrl-C is such a one
# What Python ignores, and a command expects to die of (as subprocess restores it).
_RESTORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)


class CannotRun(DedupfsError):
    """The command cannot be started; `code` is what a shell would exit with."""

    def __init__(self, text: str, code: int) -> None:
        """Take a line for the user."""
        super().__init__(text)
        self.code = code


class Stopped(BaseException):
    """A signal asks this process to end while no command runs."""

    def __init__(self, number: int) -> None:
        """Take the signal's number."""
        super().__init__(f"signal {number}")
        self.number = number


class Outcome(NamedTuple):
    """How the command ended; `by_ctrl_c`: of the terminal's SIGINT, as this process should then."""

    code: int
    by_ctrl_c: bool


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """Raise Stopped in the block for SIGTERM and SIGHUP, so that what is open gets closed."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup(1)
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(command: Sequence[str]) -> Outcome:
    """Run the command to its end. Raises CannotRun. For the main thread."""
    ignored = {number for number in _FORWARDED if signal.getsignal(number) is signal.SIG_IGN}
    watched = (_FORWARDED - ignored) | {signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        shares_group = _at_terminal()
        pid = _spawn(command, mask, shares_group=shares_group)
        return _follow(pid, watched, shares_group=shares_group)
    finally:
        # Signals that arrived behind the command's end are not for anybody any more.
        while signal.sigtimedwait(watched, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _at_terminal() -> bool:
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(fd)


def _spawn(command: Sequence[str], mask: set[int | signal.Signals], *, shares_group: bool) -> int:
    group = os.getpgrp() if shares_group else 0
    try:
        return os.posix_spawnp(
            command[0], list(command), os.environ,
            setpgroup=group, setsigmask=mask, setsigdef=_RESTORED,
        )  # fmt: skip
    except FileNotFoundError:
        raise CannotRun(f"{command[0]}: command not found", NOT_FOUND) from None
    except OSError as error:
        raise CannotRun(f"{command[0]}: {error.strerror}", NOT_EXECUTABLE) from None


def _follow(pid: int, watched: frozenset[signal.Signals], *, shares_group: bool) -> Outcome:
    ctrl_c = False
    while True:
        found = signal.sigwaitinfo(watched)
        if found.si_signo == signal.SIGCHLD:
            # One SIGCHLD may stand for several children: always look.
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                by_ctrl_c = ctrl_c and code == -signal.SIGINT
                return Outcome(code if code >= 0 else SIGNALLED - code, by_ctrl_c)
        elif shares_group and found.si_code == _SI_KERNEL:
            ctrl_c = ctrl_c or found.si_signo == signal.SIGINT
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid if shares_group else -pid, found.si_signo)
