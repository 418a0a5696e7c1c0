"""A bench of a dedupfs mount: what only its daemon can tell is in the figures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mount.mounted import dedupfs

if TYPE_CHECKING:
    from pathlib import Path

    from mount.mounted import Mounted

ENTRIES = ("--size", "4M", "--entries", "10", "--rounds", "1", "--json", "-")


def test_a_mount_takes_the_disk_of_one_rank_and_tells_its_memory(
    mount: Mounted, tmp_path: Path
) -> None:
    before = sorted(mount.path.iterdir())
    arguments = [f"mount={mount.path}", f"plain={tmp_path}", "--jobs", "ranks,memory"]
    done = dedupfs("bench", *arguments, *ENTRIES)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["baseline"] == "plain", "a mount is measured beside what it is no part of"
    assert document["targets"][0]["io_mode"] == "writeback"
    medians = {(r["job"], r["figure"]): r["medians"] for r in document["results"]}
    peak = medians["ranks", "peak"]
    assert peak["plain"] >= 16
    assert 4 <= peak["mount"] < 6
    assert medians["memory", "end"].keys() == {"mount"}
    assert 10 < medians["memory", "end"]["mount"] < 500
    assert sorted(mount.path.iterdir()) == before
