"""Status of a store nobody has mounted: right, and without a trace in the store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dedupfs.core.errors import MountError, StoreInUse, StoreTooNew
from dedupfs.core.format import U32, Counters
from dedupfs.service import report, status
from dedupfs.store.store import Store

KEYS = {
    "mountpoint", "store", "pid", "uptime_s", "io_mode", "io_reason",
    "limits", "evictions", "listings_cached", "listings_reason", "files", "directories",
    "logical_bytes", "live_bytes", "allocated_bytes", "pending_free_bytes", "damaged_bytes", "index_bytes",
    "dedup_ratio", "ingest", "requests", "read_bytes",
}  # fmt: skip
INGEST_KEYS = {
    "followed_bytes", "matched_bytes", "unique_bytes", "zero_bytes", "collisions", "healed_chunks",
}  # fmt: skip


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ctime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / ".mnt.dedupfs"
    with_counters = Store.open(path)
    with with_counters.index.write() as txn:
        txn.counters.files = 5
        txn.counters.logical_bytes = 3000
        txn.counters.allocated_bytes = 2000
    with_counters.close()
    return path


def test_an_offline_status_has_all_keys_and_leaves_no_trace(store: Path) -> None:
    before = snapshot(store)
    document = report.of_store(store)
    assert snapshot(store) == before
    assert document.keys() == KEYS
    assert dict(document["ingest"]).keys() == INGEST_KEYS  # type: ignore[call-overload]
    assert document["files"] == 5
    assert document["dedup_ratio"] == 1.5
    assert document["mountpoint"] is document["pid"] is document["uptime_s"] is None
    assert document["store"] == str(store)
    assert isinstance(document["index_bytes"], int)
    assert document["index_bytes"] > 0


def test_a_store_on_a_read_only_medium_can_be_looked_at(store: Path) -> None:
    for path in [store, *store.rglob("*")]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert report.of_store(store)["files"] == 5
    finally:
        for path in [store, *store.rglob("*")]:
            path.chmod(0o700 if path.is_dir() else 0o600)


def test_a_mount_point_finds_its_default_store(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    assert report.of_path(tmp_path / "mnt")["store"] == str(store)
    assert report.of_path(store)["store"] == str(store)


def test_a_path_that_is_nothing_of_ours(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="neither a dedupfs mount nor a store"):
        report.of_path(tmp_path)
    with pytest.raises(MountError, match="is not a dedupfs store"):
        report.of_store(tmp_path)


def test_a_store_held_by_a_mute_process_is_not_waited_for(store: Path) -> None:
    held = Store.open(store)
    try:
        with pytest.raises(StoreInUse, match="in use"):
            report.of_store(store)
    finally:
        held.close()


def test_a_newer_index_is_refused(store: Path) -> None:
    held = Store.open(store)
    with held.index.write() as txn:
        txn.put("meta", b"format", U32.pack(999))
    held.close()
    with pytest.raises(StoreTooNew, match="999"):
        report.of_store(store)


def test_a_store_whose_first_start_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text("dedupfs store, format 1\n")
    assert report.of_store(tmp_path)["files"] == 0
    assert os.listdir(tmp_path) == ["FORMAT"]


def test_the_ratio_of_an_empty_store_is_one() -> None:
    assert status.dedup_ratio(logical_bytes=0, allocated_bytes=0) == 1.0
    document = status.document(Counters(), store=Path("/s"), index_bytes=0, live=None)
    assert document["dedup_ratio"] == 1.0


def test_a_live_status_has_the_same_keys() -> None:
    live = status.LiveMount(Path("/m"), 3, 4, "writeback", "asked for", {"read": 2}, "no compiler")
    document = status.document(Counters(), store=Path("/s"), index_bytes=0, live=live)
    assert document.keys() == KEYS
    assert document["pid"] == 3
    assert document["requests"] == {"read": 2}
    assert (document["listings_cached"], document["listings_reason"]) == (False, "no compiler")
