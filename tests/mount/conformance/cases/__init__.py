"""All cases, by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mount.conformance.cases import attributes, data, modes, opens, paths, renames, times, unlinked

if TYPE_CHECKING:
    from collections.abc import Callable

    from mount.conformance.model import Case

GROUPS: Final[dict[str, Callable[[], list[Case]]]] = {
    "paths": paths.path_cases,
    "symlink": paths.symlink_cases,
    "rename": renames.rename_cases,
    "sticky": renames.sticky_cases,
    "link": renames.link_cases,
    "remove": renames.remove_cases,
    "create": renames.create_cases,
    "chmod": modes.chmod_cases,
    "chown": modes.chown_cases,
    "clearing": modes.clearing_cases,
    "permission": modes.permission_cases,
    "open": opens.open_cases,
    "truncate": data.truncate_cases,
    "write": data.write_cases,
    "seek": data.seek_cases,
    "allocate": data.allocate_cases,
    "map": data.map_cases,
    "times": times.time_cases,
    "attributes": attributes.attribute_cases,
    "unlinked": unlinked.unlinked_cases,
}
