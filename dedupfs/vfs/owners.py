"""Which process made a folder, and whether it lives: pid, start time and boot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dedupfs.store import instance

if TYPE_CHECKING:
    from dedupfs.core.format import Unit

_PROC: Final = Path("/proc")
_START_FIELD: Final = 22  # proc_pid_stat(5), counted from 1
_UNKNOWN: Final = "unknown: the mount's users are in another pid namespace"


class Process(NamedTuple):
    """A process of some boot; pid 0 is not known."""

    pid: int
    start: int
    boot: bytes


NOBODY: Final = Process(0, 0, bytes(16))


class Owners:
    """What /proc says of processes."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._boot = instance.boot_id()
        self.state = "known"  # or why not

    def of_thread(self, tid: int) -> Process:
        """Return the process of a thread that asks for something now; the kernel names threads."""
        if tid <= 0:
            self.state = _UNKNOWN
            return NOBODY
        try:
            text = (self._proc / str(tid) / "status").read_text(errors="replace")
            pid = int(text.partition("\nTgid:")[2].split(None, 1)[0])
            start = self._start(pid)
        except (OSError, IndexError, ValueError):
            return NOBODY
        self.state = "known"
        return Process(pid, start, self._boot)

    def is_dead(self, unit: Unit) -> bool:
        """Tell whether the process that made the unit has surely ended."""
        if not unit.owner_pid:
            return False
        if unit.owner_boot != self._boot:
            return True
        try:
            return self._start(unit.owner_pid) != unit.owner_start
        except FileNotFoundError:
            return True
        except (OSError, IndexError, ValueError):
            return False

    def _start(self, pid: int) -> int:
        text = (self._proc / str(pid) / "stat").read_text(errors="replace")
        # The name, in brackets, may hold anything; behind it comes field 3.
        fields = text.rpartition(")")[2].split()
        if fields[0] in {"Z", "X"}:
            raise FileNotFoundError(f"process {pid} has ended")
        return int(fields[_START_FIELD - 3])
