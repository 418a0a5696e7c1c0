"""Each option is declared once: what is missing from one way of giving it would be lost there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dedupfs.core.quantities import MinFree
from dedupfs.core.types import IoMode
from dedupfs.service.options import LIVE, OPTIONS, MountOptions
from dedupfs.service.schema import BadOption

TYPED = {
    "store": "/s", "io": "passthrough", "allow-other": "true", "foreground": "true", "verify-reads": "true",
    "checkpoint-interval": "0.5", "capacity": "200G", "min-free": "20G", "max-files": "1000",
    "low-mark": "50%", "high-mark": "60%", "evict-depth": "2", "ttl": "7d", "policy": "lru", "owners": "ignore",
    "auto-gc": "10m", "metrics": "127.0.0.1:9100", "log-to": "file", "log-file": "/l", "log-format": "json",
    "log-level": "debug", "if-mounted": "ok", "fuse-options": r"ro,context=a\,b",
}  # fmt: skip


def test_every_field_but_the_mount_point_and_the_sources_is_an_option() -> None:
    assert set(TYPED) == set(OPTIONS), "a new option: add it here"
    assert len(OPTIONS) == len(dataclasses.fields(MountOptions)) - 2


def test_every_option_survives_the_way_to_the_daemon() -> None:
    values = {name: OPTIONS[name].parse(text, name) for name, text in TYPED.items()}
    options = MountOptions(Path("/m \udcff\n"), Path("/s")).changed(values, {"io": "--io"})
    assert options.typed() == TYPED
    again = MountOptions.from_json(options.to_json())
    assert again == options
    assert again.sources == {"io": "--io"}
    assert (again.io, again.extra) == (IoMode.PASSTHROUGH, ("ro", "context=a,b"))
    assert (again.capacity_bytes, again.min_free) == (200 << 30, MinFree(fixed_bytes=20 << 30))
    assert (again.ttl_s, again.auto_gc_s, again.low_mark) == (604800, 600, 0.5)


def test_defaults_survive_the_way_to_the_daemon() -> None:
    options = MountOptions(Path("/m"), Path("/s"))
    assert MountOptions.from_json(options.to_json()) == options


@pytest.mark.parametrize(
    ("name", "text", "want"),
    [
        ("capacity", "lots", "a size above 0, such as 200G, or none"),
        ("capacity", "0", "a size above 0"),
        ("min-free", "100%", "such as 20G or 5%"),
        ("max-files", "1.5", "a whole number above 0"),
        ("low-mark", "90", "such as 90% or 0.9"),
        ("high-mark", "0", "a share above 0"),
        ("ttl", "0", "a time above 0"),
        ("checkpoint-interval", "inf", "a time above 0"),
        ("policy", "lur", 'did you mean "lru"?'),
        ("owners", "protected", 'did you mean "protect"?'),
        ("io", "fast", "one of auto, passthrough, writeback"),
        ("metrics", "localhost", "HOST:PORT"),
        ("metrics", "h:70000", "HOST:PORT"),
        ("allow-other", "maybe", "true or false"),
        ("fuse-options", "ro,frob", "a list of async"),
        ("log-file", "", "a path"),
    ],
)
def test_a_wrong_value_says_what_is_wanted(name: str, text: str, want: str) -> None:
    with pytest.raises(BadOption, match=r"^here: want ") as caught:
        OPTIONS[name].parse(text, "here")
    assert want in str(caught.value)


def test_limits_can_be_lifted_with_none() -> None:
    assert OPTIONS["capacity"].parse("none", "here") is None
    assert OPTIONS["auto-gc"].parse("none", "here") is None
    with pytest.raises(BadOption):
        OPTIONS["low-mark"].parse("none", "here")


def test_metrics_stay_on_the_loopback_unless_a_host_is_named() -> None:
    parse = OPTIONS["metrics"].parse
    assert parse("9100", "") == parse(":9100", "") == "127.0.0.1:9100"
    assert parse("0.0.0.0:9100", "") == "0.0.0.0:9100"
    assert parse("[::1]:9100", "") == "[::1]:9100"


def test_marks_in_the_wrong_order_are_named_with_where_they_come_from() -> None:
    options = MountOptions(Path("/m"), Path("/s"))
    with pytest.raises(
        BadOption, match=r"low-mark 90% \(default\) must be below high-mark 85% \(x\)"
    ):
        options.changed({"high-mark": 0.85}, {"high-mark": "x"})


def test_a_tiny_capacity_is_warned_about() -> None:
    options = MountOptions(Path("/m"), Path("/s"))
    assert options.warnings() == []
    assert options.changed({"capacity": 16 << 20}, {}).warnings() == []
    (line,) = options.changed({"capacity": 1 << 20}, {}).warnings()
    assert "capacity 1M" in line


def test_only_limits_and_the_order_change_while_mounted() -> None:
    assert set(LIVE) == {
        "capacity", "min-free", "max-files", "low-mark", "high-mark", "ttl", "policy", "owners", "auto-gc",
    }  # fmt: skip
