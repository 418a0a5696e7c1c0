"""For Python programs: `with dedupfs.mounted("/cache") as mount:`. Mounts as `dedupfs run` does."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dedupfs.core.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dedupfs.service.sharing import SharedMount

DEFAULT_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Status:
    """What a mount holds and saves at one moment; sizes in bytes."""

    mountpoint: Path
    store: Path
    daemon_pid: int
    files: int
    directories: int
    logical_bytes: int  # what the files hold, holes left out
    allocated_bytes: int  # what that takes on disk
    ratio: float  # logical to allocated
    document: Mapping[str, object]  # all of `dedupfs status --json`

    @property
    def saved_bytes(self) -> int:
        """What is not taken on disk thanks to sharing."""
        return max(0, self.logical_bytes - self.allocated_bytes)


class Mount:
    """A mount in use by this process. A path: `mount / "name"`, `open(mount / "name")`."""

    def __init__(self, shared: SharedMount) -> None:
        """Use `mounted`."""
        self._shared = shared

    @property
    def path(self) -> Path:
        """The mount point, absolute, without symlinks."""
        return self._shared.mountpoint

    @property
    def store(self) -> Path:
        """Where the content is kept."""
        return self._shared.store

    def status(self) -> Status:
        """Return what the daemon says now. Raises DedupfsError when it does not answer."""
        document = self._shared.status()
        logical, allocated = (
            _number(document, "logical_bytes"),
            _number(document, "allocated_bytes"),
        )
        return Status(
            mountpoint=self.path,
            store=self.store,
            daemon_pid=_number(document, "pid"),
            files=_number(document, "files"),
            directories=_number(document, "directories"),
            logical_bytes=logical,
            allocated_bytes=allocated,
            ratio=logical / allocated if allocated else 1.0,
            document=document,
        )

    def __fspath__(self) -> str:
        """Return the mount point, for `os` and `open`."""
        return os.fspath(self.path)

    def __truediv__(self, name: str | os.PathLike[str]) -> Path:
        """Return a path in the mount."""
        return self.path / name


@contextlib.contextmanager
def mounted(
    path: str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    wait_s: float = DEFAULT_WAIT_S,
    **options: str | float | bool,
) -> Iterator[Mount]:
    """Mount over `path`, made if missing, for the block; all is on disk at its end.

    `store` and `options` are those of `dedupfs mount`, with underscores: `capacity="200G"`,
    `io="writeback"`, `verify_reads=True`; `config` is a TOML file. What is not given comes from the
    environment and the configuration files, as for the command.

    A process of its own serves the mount, so threads and forks of this program do it no harm. When
    others use the mount in this way too, in this program or another, the first one mounts and the
    last one unmounts; one made with `dedupfs mount` stays. Leaving the block in a forked child does
    nothing. Processes that still use the mount at the end are waited for up to `wait_s`; then
    the mount stays, for the next user or `dedupfs umount` to end.

    Raises DedupfsError, one line that says what is wrong and what to do: when it cannot be
    mounted, when an option is wrong, at the end when it is still in use or not all is on disk.
    """
    from dedupfs.service import settings, sharing  # noqa: PLC0415 - importing dedupfs is cheap
    from dedupfs.service.options import OPTIONS  # noqa: PLC0415
    from dedupfs.service.schema import BadOption, did_you_mean  # noqa: PLC0415

    texts = {name.replace("_", "-"): _text(value) for name, value in options.items()}
    for name in texts:
        if name not in OPTIONS:
            raise BadOption(f"unknown mount option {name!r}{did_you_mean(name, OPTIONS)}")
    if store is not None:
        texts["store"] = os.fspath(store)
    typed = settings.typed(texts, config_file=Path(config) if config is not None else None)
    shared = sharing.take(settings.resolve(Path(path), typed, os.environ))
    said: list[str] = []
    try:
        yield Mount(shared)
    except BaseException:
        # The block's own error is the one to be told.
        with contextlib.suppress(MountError):
            shared.end(wait_s=wait_s)
        raise
    if shared.end(wait_s=wait_s, told=said.append) is sharing.End.BUSY:
        raise MountError(said[-1])


def _text(value: str | float | bool) -> str:  # noqa: FBT001 - an option's value
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(document: Mapping[str, object], key: str) -> int:
    value = document.get(key)
    return value if isinstance(value, int) else 0
