"""One rank: a process that writes the bytes it shares with the others into its own file, when told.

`python -m dedupfs.bench.rank PATH DESCRIPTOR SIZE OWN_PAGE`. On standard input each line starts a
step (write and close; fsync); on standard output each answers with the monotonic clock at its end.
"""

from __future__ import annotations

import mmap
import os
import sys
import time

from dedupfs.bench.writing import MIB, PAGE_BYTES, in_calls, sync, write_new


def main() -> None:
    """Get ready, then do both steps."""
    path, descriptor, size, own_page = sys.argv[1:]
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE  # no page fault falls into the measured time
    data = mmap.mmap(int(descriptor), int(size), flags, mmap.PROT_READ)
    pieces: list[bytearray | memoryview] = list(in_calls(memoryview(data)))
    if int(own_page):
        pieces[0] = bytearray(os.urandom(PAGE_BYTES)) + data[PAGE_BYTES:MIB]
    if not _told():
        return
    write_new(path, pieces)
    if not _told():
        return
    sync(path)
    _told()


def _told() -> bool:
    """Say when we came here, and wait; return whether to go on, not whether who started us is gone."""
    print(time.monotonic(), flush=True)  # noqa: T201 - how it answers
    return bool(sys.stdin.readline())


if __name__ == "__main__":
    main()
