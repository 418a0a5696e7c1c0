"""How pyfuse3's workers wait for the next request: they look first, and ask trio only if there is none.

Asking trio takes two turns of its loop and three system calls, measured at 10 to 20 us a request:
half of what a small write costs. But others must get their turns: so not for long without asking.
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Final

import pyfuse3

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# What a finished disk read or a due checkpoint may have to wait.
_TURN_NS: Final = 1_000_000
_HOOK: Final = "_wait_fuse_readable"


class Waiting:
    """Stands before pyfuse3's own waiting.

    A worker that looks does not count as a reader for pyfuse3, which starts another one when it has
    none: so one only looks while another one waits in earnest. That one may be woken for a request
    that is taken already: the descriptor is made non-blocking, and `_replies.c` turns EAGAIN into
    EINTR, after which pyfuse3 waits again.
    """

    def __init__(self, device: int, ask: Callable[[], Awaitable[bool]]) -> None:
        self._ask = ask
        self._asking = 0
        self._turn_ends_ns = 0
        self._poll = select.poll()
        self._poll.register(device, select.POLLIN)

    async def wait(self) -> bool:
        """Return True when there is a request, False when the mount ends."""
        if self._asking and time.monotonic_ns() < self._turn_ends_ns and self._poll.poll(0):
            return True
        self._asking += 1
        try:
            return await self._ask()
        finally:
            self._asking -= 1
            self._turn_ends_ns = time.monotonic_ns() + _TURN_NS


def install(device: int) -> None:
    """Let the workers of pyfuse3 look first; needs the extension. Other versions may lack the hook."""
    ask = getattr(pyfuse3, _HOOK, None)
    if ask is None:
        return
    os.set_blocking(device, False)
    setattr(pyfuse3, _HOOK, Waiting(device, ask).wait)
