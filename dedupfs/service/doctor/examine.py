"""All looks together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dedupfs.core.errors import MountError
from dedupfs.service import mounts
from dedupfs.service.doctor import places, system
from dedupfs.service.doctor.findings import warning

if TYPE_CHECKING:
    from pathlib import Path

    from dedupfs.service.doctor.findings import Finding


def examine(path: Path | None) -> list[Finding]:
    """Return what was found on this machine and, with `path`, of the mount or store there."""
    seen = [mount for mount in mounts.mounts() if mount.is_dedupfs]
    found = [*system.findings(), *places.mount_findings(seen)]
    stores = {mount.store for mount in seen}
    if path is not None:
        stores = {places.default_store_of(path)}
    for store in sorted(stores):
        try:
            found += places.store_findings(store)
        except (MountError, PermissionError):
            found.append(
                warning(f"store {store}", "is another user's", "look as that user, or as root")
            )
    return [*found, *places.environment_findings(os.environ, seen)]
