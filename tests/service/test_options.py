"""A wrong -o list would mount with other properties than asked for, or break an fstab line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedupfs.core.errors import MountError
from dedupfs.core.types import IoMode
from dedupfs.service.options import MountOptions, OptionList, parse_option_list


def test_our_own_options_are_understood() -> None:
    found = parse_option_list("allow_other,io=passthrough,store=/s,log_file=/l,foreground")
    assert found == OptionList(
        io=IoMode.PASSTHROUGH, store="/s", log_file="/l", allow_other=True, foreground=True
    )


def test_fuse_options_are_passed_on_in_order() -> None:
    text = "ro,nosuid,nodev,noexec,noatime,default_permissions,context=x,rw,suid,dev,exec"
    assert parse_option_list(text).extra == tuple(text.split(","))


@pytest.mark.parametrize(
    "noise",
    [
        "defaults", "auto", "noauto", "user", "users", "nouser", "user=alice", "nofail", "_netdev",
        "x-systemd.automount", "x-systemd.requires=network.target", "X-mount.mkdir", "relatime",
        "comment=cache", "owner", "group",
    ],
)  # fmt: skip
def test_what_fstab_adds_is_dropped(noise: str) -> None:
    assert parse_option_list(f"{noise},ro").extra == ("ro",)


@pytest.mark.parametrize(
    "wrong", ["frob", "allow_root", "subtype=x", "fsname=y", "io", "ro=1", "fd=3", "max_read=65536"]
)
def test_an_unknown_option_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(MountError, match=f"unknown mount option '{wrong}'"):
        parse_option_list(f"ro,{wrong}")


def test_a_wrong_io_mode_names_the_right_ones() -> None:
    with pytest.raises(MountError, match="auto, passthrough, writeback"):
        parse_option_list("io=fast")


def test_a_value_may_hold_an_escaped_comma() -> None:
    assert parse_option_list(r"store=/a\,b,ro").store == "/a,b"


def test_an_empty_list_asks_for_nothing() -> None:
    assert parse_option_list("") == parse_option_list(" ,,") == OptionList()


def test_options_survive_the_way_to_the_daemon() -> None:
    options = MountOptions(
        mountpoint=Path("/m \udcff\n"),
        store=Path("/s"),
        io=IoMode.PASSTHROUGH,
        allow_other=True,
        log_file=Path("/l"),
        extra=("ro", "context=x"),
    )
    assert MountOptions.from_json(options.to_json()) == options
