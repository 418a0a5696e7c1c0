"""Metrics: what a dashboard shows must be what the mount counts, and a scrape must harm nothing."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from dedupfs.core.errors import MountError
from dedupfs.core.format import Counters
from dedupfs.service import metrics, status

if TYPE_CHECKING:
    from collections.abc import Iterator

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana" / "dedupfs.json"
# Of PromQL and its functions: what in a query is no metric.
WORDS = {"rate", "sum", "by", "topk", "clamp_min", "operation", "kind", "unit", "instance", "label"}


def scrape() -> metrics.Scrape:
    counters = Counters(files=3, logical_bytes=400, allocated_bytes=100, followed_bytes=300,
                        unique_bytes=100, collisions=2)  # fmt: skip
    live = status.LiveMount(
        Path("/m"), 3, 4, "writeback", "asked for", {"read": 2, "write": 5}, read_bytes=77
    )
    document = status.document(counters, store=Path("/s"), index_bytes=9, live=live)
    document |= {
        "free_bytes": 1 << 40,
        "limits": {"capacity_bytes": 1000, "min_free_bytes": None, "max_files": 7, "pressure": 0.5},
        "evictions": {"units": 1, "bytes": 2, "files": 3, "last": None},
    }
    unit = {"path": "rank\udcff", "logical_bytes": 200, "exclusive_bytes": 5}
    gone = {"path": None, "logical_bytes": 1, "exclusive_bytes": 1}
    return metrics.Scrape(document, [unit, gone], 12.0)


async def scraped(server: metrics.Server) -> str:
    url = f"http://{server.address}/metrics"

    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    return await trio.to_thread.run_sync(get)


async def samples() -> dict[str, float]:
    server = metrics.Server("127.0.0.1:0", scrape)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve)
        text = await scraped(server)
        nursery.cancel_scope.cancel()
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_numbers_are_those_of_the_status() -> None:
    found = await samples()
    assert found["dedupfs_content_bytes{}"] == 400
    assert found["dedupfs_allocated_bytes{}"] == 100
    assert found["dedupfs_read_bytes_total{}"] == 77
    assert found['dedupfs_written_bytes_total{"kind": "followed"}'] == 300
    assert found['dedupfs_requests_total{"operation": "write"}'] == 5
    assert found["dedupfs_evicted_files_total{}"] == 3
    assert found["dedupfs_pressure_ratio{}"] == 0.5
    assert found['dedupfs_unit_exclusive_bytes{"unit": "rank\\\\udcff"}'] == 5
    assert "dedupfs_min_free_bytes{}" not in found, "a limit that is not set"
    assert not any("None" in name for name in found if "unit" in name)


def test_names_units_and_help_are_as_prometheus_wants_them() -> None:
    for family in metrics.families(scrape()):
        assert re.fullmatch(r"dedupfs(_[a-z]+)*", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert "mib" not in family.name


async def test_a_scrape_while_the_mount_ends_does_not_hang_it() -> None:
    server = metrics.Server("127.0.0.1:0", scrape)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve)
            idle = await trio.open_tcp_stream("127.0.0.1", int(server.address.split(":")[1]))
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    await idle.aclose()
    with pytest.raises(OSError, match=r"refused|failed"):
        await trio.open_tcp_stream("127.0.0.1", int(server.address.split(":")[1]))


async def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MountError, match=rf"--metrics 127.0.0.1:{port}: .*in use") as raised:
            metrics.Server(f"127.0.0.1:{port}", scrape)
        assert "\n" not in str(raised.value)


def queries(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("expr"), str):
            yield node["expr"]
        for value in node.values():
            yield from queries(value)
    elif isinstance(node, list):
        for value in node:
            yield from queries(value)


async def test_every_query_of_the_dashboard_names_metrics_that_are_exported() -> None:
    exported = {name.partition("{")[0] for name in await samples()} | {"dedupfs_min_free_bytes"}
    found = list(queries(json.loads(DASHBOARD.read_text())))
    assert len(found) > 8
    for query in found:
        bare = re.sub(r'\{[^}]*\}|"[^"]*"|\[[^\]]*\]', "", query)
        names = set(re.findall(r"[a-z_]{2,}", bare)) - WORDS
        assert names, query
        assert names <= exported, query
