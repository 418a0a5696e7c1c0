"""Rates of `dedupfs top`: a wrong one sends people to look for the wrong trouble."""

from __future__ import annotations

from dedupfs.cli.rates import Rates


def status(pid: int = 1, **numbers: int) -> dict[str, object]:
    requests = {key: value for key, value in numbers.items() if key in {"read", "write"}}
    ingest = {"followed_bytes": numbers.get("followed", 0), "unique_bytes": numbers.get("new", 0)}
    return {"pid": pid, "requests": requests, "ingest": ingest, "read_bytes": numbers.get("bytes")}


def test_what_grew_in_a_second() -> None:
    rates = Rates.between(
        status(read=10, write=10, followed=100, new=50, bytes=7),
        status(read=14, write=30, followed=300, new=150, bytes=27),
        2.0,
    )
    assert rates == Rates(150.0, 10.0, 12.0, [("write", 10.0), ("read", 2.0)])


def test_a_daemon_that_began_anew_has_no_rates_yet() -> None:
    none = Rates(0.0, 0.0, 0.0, [])
    assert Rates.between(status(read=10), status(pid=2, read=99), 1.0) == none
    assert Rates.between(status(read=10), status(read=99), 0.0) == none


def test_an_older_daemon_without_a_count_of_reads() -> None:
    assert Rates.between(status(read=1), status(read=3), 1.0).read_bytes == 0
