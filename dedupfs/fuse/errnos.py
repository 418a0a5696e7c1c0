"""Which errno a failed request is answered with: one table for the file system's own errors."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Final

from dedupfs.core import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

ERRNOS: Final[Mapping[type[errors.FsError], int]] = {
    errors.NoSuchName: errno.ENOENT,
    errors.NameExists: errno.EEXIST,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.NotADirectory: errno.ENOTDIR,
    errors.IsADirectory: errno.EISDIR,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.NotPermitted: errno.EPERM,
    errors.InvalidArgument: errno.EINVAL,
    errors.NoSuchAttribute: errno.ENODATA,
    errors.NotSupported: errno.EOPNOTSUPP,
    errors.FileTooBig: errno.EFBIG,
    errors.TooManyLinks: errno.EMLINK,
    errors.NoSpace: errno.ENOSPC,
    errors.NeedsRoom: errno.ENOSPC,
    errors.QuotaExceeded: errno.EDQUOT,
    errors.BadHandle: errno.EBADF,
    errors.Stale: errno.ESTALE,
    errors.Damaged: errno.EIO,
}

# What the store's disk may say through us. Any other errno of a store file (ENOENT, ENOSYS,
# ESTALE ...) would tell the kernel something about the mounted file that is not so.
_DISK_ERRNOS: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EFBIG}
)


def errno_of(error: Exception, request: str) -> int:
    """Return the errno for what a request raised; bugs and damage go to the log."""
    if isinstance(error, errors.FsError):
        if isinstance(error, errors.Damaged):
            log.error("%s: %s", request, error)
        return ERRNOS.get(type(error), errno.EIO)
    if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
        log.warning("%s: the store's disk: %s", request, error)
        return error.errno
    log.error("bug: %s: %r", request, error, exc_info=error)
    return errno.EIO
