"""Measurements asked for on the control socket: bounded, cached, stopped when nobody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from dedupfs.service import measuring
from dedupfs.service.control import BadRequest
from dedupfs.service.measuring import Measuring
from vfs.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "store")
    yield made
    made.close()


@pytest.fixture
async def measures(world: World) -> AsyncIterator[Measuring]:
    served = Measuring(world.store.index, world.vfs.sync)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.serve)
        yield served
        nursery.cancel_scope.cancel()


async def answer(measures: Measuring, name: str, **request: object) -> dict[str, object]:
    """Ask until it is done."""
    command = measures.commands[name]
    document = command(request)
    request["max_age_s"] = 60  # what was begun is new enough
    with trio.fail_after(20):
        while document["state"] not in {"idle", "done", "failed"}:
            await trio.sleep(0.01)
            again = {"id": document["id"]} if "id" in document else request
            document = measures.commands["measured" if "id" in document else name](again)
            if "id" in again:
                document["id"] = again["id"]
    return document


async def test_units_are_kept_until_they_are_old(world: World, measures: Measuring) -> None:
    world.create(b"a", b"x" * 5000, world.mkdir(b"one"))
    first = await answer(measures, "units", max_age_s=60)
    assert [unit["path"] for unit in first["units"]] == ["one"]  # type: ignore[attr-defined]
    world.create(b"b", b"y" * 9000, world.mkdir(b"two"))
    again = measures.commands["units"]({"max_age_s": 60})
    assert (again["state"], again["count"]) == ("idle", 1)
    new = await answer(measures, "units", max_age_s=0)
    assert measures.commands["units"]({"max_age_s": 60})["count"] == 2
    assert new["stored_bytes"] >= 5000  # type: ignore[operator]


async def test_pages_of_units(world: World, measures: Measuring) -> None:
    for number in range(7):
        world.create(b"f%d" % number, b"z" * (100 * (9 - number)))
    await answer(measures, "units", max_age_s=60)
    page = measures.commands["units"]({"offset": 4, "limit": 2, "max_age_s": 60})
    assert [unit["path"] for unit in page["units"]] == ["f4", "f5"]  # type: ignore[attr-defined]
    assert page["next"] == 6
    assert measures.commands["units"]({"offset": 6, "max_age_s": 60})["next"] is None


async def test_a_page_that_is_too_long_for_a_reply_goes_on_in_the_next(
    world: World, measures: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        world.create(b"f%d" % number, b"z")
    await answer(measures, "units", max_age_s=60)
    monkeypatch.setattr(measuring, "_REPLY_BYTES", 500)
    page = measures.commands["units"]({"max_age_s": 60})
    assert 0 < len(page["units"]) < 5  # type: ignore[arg-type]
    assert page["next"] == len(page["units"])  # type: ignore[arg-type]


async def test_a_unit_that_was_removed_meanwhile_has_no_name(
    world: World, measures: Measuring
) -> None:
    world.create(b"f", b"z")
    await answer(measures, "units", max_age_s=60)
    world.vfs.unlink(1, b"f")
    page = measures.commands["units"]({"max_age_s": 60})
    assert page["units"][0]["path"] is None  # type: ignore[index]


async def test_a_measurement_nobody_looks_at_is_stopped(
    world: World, measures: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create(b"f", b"z")
    monkeypatch.setattr(measuring, "_UNWATCHED_S", -1.0)
    document = measures.commands["du"]({"paths": ["f"], "depth": 0})
    with trio.fail_after(20):
        found = document
        while found["state"] in {"waiting", "running"}:
            await trio.sleep(0.01)
            found = measures.commands["measured"]({"id": document["id"]})
    assert (found["state"], found["error"]) == ("failed", "stopped")


async def test_who_shares_with_a_file(world: World, measures: Measuring) -> None:
    for name in (b"a", b"b", b"c"):
        world.create(name, bytes(range(256)) * 100)
    found = await answer(measures, "sharers", path="b", limit=1)
    assert found["count"] == 2
    assert found["rows"] == [{"path": "a", "bytes": 25_600}]


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("du", {}),
        ("du", {"paths": []}),
        ("du", {"paths": [3]}),
        ("du", {"paths": ["no"]}),
        ("du", {"paths": [""], "depth": -1}),
        ("du", {"paths": [""], "depth": True}),
        ("units", {"limit": "x"}),
        ("units", {"max_age_s": "x"}),
        ("measured", {"id": 7}),
        ("sharers", {"path": None}),
    ],
)
async def test_what_makes_no_sense_is_refused(
    measures: Measuring, name: str, request_: dict[str, object]
) -> None:
    with pytest.raises(BadRequest):
        measures.commands[name](request_)


async def test_too_many_at_once_are_refused(world: World) -> None:
    measures = Measuring(world.store.index, world.vfs.sync)  # nobody serves
    for _ in range(8):
        measures.commands["du"]({"paths": [""], "depth": 0})
    with pytest.raises(BadRequest, match="try again later"):
        measures.commands["du"]({"paths": [""], "depth": 0})
