"""Mounts that several processes use in common: the first one mounts, the last one unmounts.

Each user holds a shared flock on the store's file `users`, which the kernel drops when the user
dies; the file's text names the daemon that a user has started. A mount that somebody made with
`dedupfs mount` is joined and left alone. Who mounts, joins or leaves holds an flock on the store's
folder meanwhile (the gate; taken before `users`, never after it), so that of four ranks that begin
at once one mounts and three join.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import DedupfsError, MountError
from dedupfs.core.format import STORE_FILES
from dedupfs.service import client, launch, mounts, preflight, unmounting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dedupfs.service.mounts import Mount
    from dedupfs.service.options import MountOptions

BUSY_WAIT_S: Final = 10.0
_RETRY_S: Final = 0.2
_RACES_MAX: Final = 100


class End(Enum):
    """How a user's leaving ended."""

    UNMOUNTED = "unmounted"
    USED_BY_OTHERS = "used by others"
    NOT_OURS = "mounted by others"
    BUSY = "busy"
    DETACHED = "detached"


class SharedMount:
    """One user's hold on a mount. Only the process that took it can give it back."""

    def __init__(self, mountpoint: Path, store: Path, users: int | None) -> None:
        """`users` is the locked descriptor; None: the store is somebody else's."""
        self.mountpoint = mountpoint
        self.store = store
        self._users = users
        self._pid = os.getpid()

    def status(self) -> dict[str, object]:
        """Return the status document; raise DedupfsError when the daemon is gone."""
        document = client.ask(self.store, "status")
        if document is None:
            raise MountError(
                f"{self.mountpoint}: its daemon has ended (see {self.store / 'dedupfs.log'})"
            )
        return document

    def end(
        self,
        *,
        wait_s: float = BUSY_WAIT_S,
        lazy: bool = False,
        told: Callable[[str], None] = lambda _text: None,
    ) -> End:
        """Leave; the last user unmounts, and returns when all is on disk.

        Processes that still use the mount are waited for, `told` who they are; after `wait_s` the
        mount is left to the next user's end, or, with `lazy`, to them. Again, or in a forked child,
        it does nothing. Raises MountError when not all could be put on disk.
        """
        if self._users is None or self._pid != os.getpid():
            return End.NOT_OURS
        users, self._users = self._users, None
        try:
            return self._leave(users, wait_s=wait_s, lazy=lazy, told=told)
        finally:
            os.close(users)
            launch.reap()

    def _leave(self, users: int, *, wait_s: float, lazy: bool, told: Callable[[str], None]) -> End:
        deadline = time.monotonic() + wait_s
        has_told = False
        while True:
            late = time.monotonic() >= deadline
            end, who = self._try_to_leave(users, lazy=lazy and late)
            if end is not End.BUSY:
                return end
            if late:
                told(f"{self.mountpoint} stays mounted, {who}")
                return end
            if not has_told:
                told(f"{self.mountpoint} is still in use, waiting {wait_s:g} s: {who}")
                has_told = True
            # trio is not at hand: this runs in commands and in other people's programs.
            threading.Event().wait(_RETRY_S)

    def _try_to_leave(self, users: int, *, lazy: bool) -> tuple[End, str]:
        """Return how it ended, and who keeps the mount busy. The descriptor stays open, unlocked."""
        with _gate(self.store):
            # A forked child may hold the descriptor, too: this unlocks it for both.
            fcntl.flock(users, fcntl.LOCK_UN)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return End.USED_BY_OTHERS, ""
            try:
                if not self._is_ours(users):
                    return self._clear_dead(), ""
                try:
                    unmounting.end_mount(self.mountpoint)
                except mounts.Busy as error:
                    if not lazy:
                        return End.BUSY, _users_of(error)
                    mounts.unmount(self.mountpoint, lazy=True)
                    return End.DETACHED, ""
                os.ftruncate(users, 0)
                return End.UNMOUNTED, ""
            finally:
                fcntl.flock(users, fcntl.LOCK_UN)

    def _clear_dead(self) -> End:
        """Take a mount away whose daemon died; leave any other."""
        mount = mounts.mount_at(self.mountpoint)
        if mount is None or mount.store != self.store or not mounts.is_stale(mount):
            return End.NOT_OURS
        unmounting.end_mount(self.mountpoint)
        return End.UNMOUNTED

    def _is_ours(self, users: int) -> bool:
        """Tell whether the daemon that serves the mount now was started by a user."""
        mount = _live_mount(self.mountpoint)
        if mount is None or mount.store != self.store:
            return False
        with contextlib.suppress(ValueError, DedupfsError):
            return bool(json.loads(os.pread(users, 4096, 0)) == _daemon_of(self.store))
        return False


def take(options: MountOptions) -> SharedMount:
    """Mount as the options say, or join the mount that is there, whose options stay as they are.

    The mount point is made if missing. Raises DedupfsError; nothing stays mounted then.
    """
    wanted = replace(
        options,
        mountpoint=mounts.resolve(options.mountpoint),
        store=mounts.resolve(options.store),
        foreground=False,
    )
    for _ in range(_RACES_MAX):
        mount = _live_mount(wanted.mountpoint)
        taken = _join(wanted, mount) if mount is not None else _mount(wanted)
        if taken is not None:
            return taken
    raise MountError(f"{wanted.mountpoint} is mounted and unmounted all the time: try again")


def _join(wanted: MountOptions, mount: Mount) -> SharedMount | None:
    """Return a hold on the mount; None when it has ended meanwhile."""
    if wanted.store != mount.store and "store" in wanted.sources:
        raise MountError(
            f"{wanted.mountpoint} is mounted with the store {mount.store}, not {wanted.store}: "
            f"leave --store out, or end it with `dedupfs umount {wanted.mountpoint}`"
        )
    try:
        with _gate(mount.store):
            now = _live_mount(wanted.mountpoint)
            if now is None or now.store != mount.store:
                return None
            return SharedMount(wanted.mountpoint, mount.store, _hold(mount.store))
    except PermissionError:
        return SharedMount(wanted.mountpoint, mount.store, None)
    except FileNotFoundError:
        raise MountError(
            f"{wanted.mountpoint} is mounted, but its store {mount.store} is not there"
        ) from None


def _mount(wanted: MountOptions) -> SharedMount | None:
    """Return a hold on a new mount; None when somebody else was quicker."""
    try:
        # Not exist_ok, which looks into what is there: that may be a dead mount.
        with contextlib.suppress(FileExistsError):
            wanted.mountpoint.mkdir(parents=True)
        prepared = preflight.prepare(wanted)
        prepared.store.mkdir(mode=0o700, exist_ok=True)
    except MountError:
        if _live_mount(wanted.mountpoint) is not None:
            return None
        raise
    except OSError as error:
        raise MountError(f"{error.filename}: {error.strerror}") from None
    with _gate(prepared.store):
        if _live_mount(prepared.mountpoint) is not None:
            return None
        try:
            launch.start(prepared)
        except MountError:
            if _live_mount(prepared.mountpoint) is not None:
                return None
            raise
        users = _hold(prepared.store)
        text = json.dumps(_daemon_of(prepared.store)).encode()
        os.ftruncate(users, 0)
        os.pwrite(users, text, 0)
        return SharedMount(prepared.mountpoint, prepared.store, users)


def _live_mount(path: Path) -> Mount | None:
    mount = mounts.mount_at(path)
    return mount if mount is not None and mount.is_dedupfs and not mounts.is_stale(mount) else None


@contextlib.contextmanager
def _gate(store: Path) -> Iterator[None]:
    fd = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _hold(store: Path) -> int:
    users = os.open(store / STORE_FILES["users"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    return users


def _daemon_of(store: Path) -> dict[str, object]:
    """Return what tells the store's daemon from every other process."""
    document = client.ask(store, "status") or {}
    pid = document.get("pid")
    try:
        # proc_pid_stat(5): field 22, counted behind the name, is the start time.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = ""
    return {"pid": pid, "started": started}


def _users_of(error: mounts.Busy) -> str:
    """Return the processes that `unmounting` lists, in one line."""
    return "used by " + "; ".join(line.strip() for line in str(error).splitlines()[1:])
