"""A mount whose names are removed behind the kernel's back, as eviction does it: `behind.py STORE MOUNTPOINT IO`.

Says "ready"; then each line `INO NAME` removes that entry, is answered by "done" when the kernel was
told, and the end of the input ends the mount.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import trio

from dedupfs.core.types import Ino, IoMode
from dedupfs.fuse.session import Session
from dedupfs.store.store import Store
from dedupfs.vfs.vfs import Vfs


async def serve(vfs: Vfs, session: Session) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        print("ready", flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.buffer.readline):
            parent, name = line.split()
            vfs.unlink(Ino(int(parent)), name)
            vfs.forget_name(Ino(int(parent)), name)
            print("done", flush=True)
        session.terminate()


def main() -> None:
    store = Store.open(Path(sys.argv[1]))
    vfs = Vfs(store, clock=time.time_ns)
    session = Session(vfs, Path(sys.argv[2]), store=store.path, io=IoMode(sys.argv[3]))
    try:
        trio.run(serve, vfs, session)
    finally:
        session.close()
        vfs.close()
        store.close()
    os._exit(0)  # pyfuse3's thread that tells the kernel never ends


main()
