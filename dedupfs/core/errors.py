"""The domain's errors. `dedupfs.fuse.errnos` maps each file-system error to an errno."""

from __future__ import annotations


class DedupfsError(Exception):
    """Anything dedupfs raises on purpose; its text is one clear line for a user."""


class FsError(DedupfsError):
    """A file-system call is refused; the call's errno is decided in one table."""


class NoSuchName(FsError):
    """No such directory entry, or the inode behind it is gone."""


class NameExists(FsError):
    """The name to be made exists already."""


class NotEmpty(FsError):
    """The directory to be removed or replaced has entries."""


class NotADirectory(FsError):
    """A directory was needed."""


class IsADirectory(FsError):
    """Something other than a directory was needed."""


class NameTooLong(FsError):
    """A name is longer than NAME_MAX_BYTES, or a symlink target longer than PATH_MAX."""


class NotPermitted(FsError):
    """The operation is never allowed on this object."""


class InvalidArgument(FsError):
    """An argument has no meaning here."""


class NoSuchAttribute(FsError):
    """The extended attribute does not exist."""


class NotSupported(FsError):
    """The operation or attribute namespace is not supported."""


class FileTooBig(FsError):
    """An offset or size beyond FILE_MAX_BYTES."""


class TooManyLinks(FsError):
    """The link count would pass its limit."""


class NoSpace(FsError):
    """The store's file system is full."""


class NeedsRoom(NoSpace):
    """A limit would be passed: making room, which takes time, may help."""

    def __init__(self, text: str, *, size: int = 0, files: int = 0) -> None:
        super().__init__(text)
        self.size = size  # bytes
        self.files = files


class QuotaExceeded(FsError):
    """The store's file system refuses more for this user."""


class BadHandle(FsError):
    """The file handle is not open, or not open for this."""


class Stale(FsError):
    """The inode is not what its name means any more: to be looked up again."""


class Damaged(FsError):
    """Stored bytes could not be read back as they were written."""


class StoreError(DedupfsError):
    """A store cannot be opened or used."""


class StoreInUse(StoreError):
    """Another process holds the store's lock."""


class StoreTooNew(StoreError):
    """The store was written by a newer format version."""


class NotAStore(StoreError):
    """The directory holds something else."""


class Corrupt(StoreError):
    """On-disk bytes are not what the format says; the text gives want and have."""


class MountError(DedupfsError):
    """A mount point cannot be mounted or unmounted."""
