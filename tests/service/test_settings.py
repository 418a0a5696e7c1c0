"""Where an option's value comes from: a limit taken from the wrong place fills somebody's disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dedupfs.core.types import IoMode
from dedupfs.service import config, settings
from dedupfs.service.schema import BadOption

if TYPE_CHECKING:
    from dedupfs.service.options import MountOptions


@pytest.fixture(autouse=True)
def no_machine_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the machine's file where no other machine has one."""
    path = tmp_path / "etc.toml"
    monkeypatch.setattr(config, "SYSTEM_FILE", path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found(
    tmp_path: Path, *lists: str, environ: dict[str, str] | None = None, **flags: str
) -> MountOptions:
    asked = settings.typed({name.replace("_", "-"): text for name, text in flags.items()}, lists)
    home = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    return settings.resolve(tmp_path / "mnt", asked, {**home, **(environ or {})})


def test_each_place_is_stronger_than_the_one_before(tmp_path: Path, no_machine_file: Path) -> None:
    mine = tmp_path / "xdg/dedupfs/config.toml"
    mnt = tmp_path / "mnt"
    assert found(tmp_path).capacity_bytes is None
    steps = [
        (lambda: write(no_machine_file, 'capacity = "1G"'), f"{no_machine_file}: capacity"),
        (
            lambda: write(no_machine_file, f'capacity = "1G"\n[mounts."{mnt}"]\ncapacity = "2G"'),
            f'{no_machine_file}: [mounts."{mnt}"] capacity',
        ),
        (lambda: write(mine, f"capacity = {3 << 30}"), f"{mine}: capacity"),
        (
            lambda: write(mine, f'capacity = "3G"\n[mounts."{mnt}"]\ncapacity = "4G"'),
            f'{mine}: [mounts."{mnt}"] capacity',
        ),
    ]
    for number, (make, source) in enumerate(steps, start=1):
        make()
        options = found(tmp_path)
        assert options.capacity_bytes == number << 30
        assert options.sources["capacity"] == source
    environ = {"DEDUPFS_CAPACITY": "5G"}
    options = found(tmp_path, environ=environ)
    assert (options.capacity_bytes, options.sources["capacity"]) == (5 << 30, "DEDUPFS_CAPACITY")
    options = found(tmp_path, "capacity=6G", environ=environ)
    assert (options.capacity_bytes, options.sources["capacity"]) == (6 << 30, "-o capacity")
    options = found(tmp_path, "capacity=6G", environ=environ, capacity="7G")
    assert (options.capacity_bytes, options.sources["capacity"]) == (7 << 30, "--capacity")


def test_a_named_file_stands_alone(tmp_path: Path, no_machine_file: Path) -> None:
    write(no_machine_file, "max-files = 1")
    write(tmp_path / "xdg/dedupfs/config.toml", "evict-depth = 3")
    one, two = (write(tmp_path / f"{n}.toml", f'capacity = "{n}G"') for n in (1, 2))
    options = found(tmp_path, environ={"DEDUPFS_CONFIG": str(one)})
    assert (options.capacity_bytes, options.max_files, options.evict_depth) == (1 << 30, None, 1)
    options = found(tmp_path, f"config={two}", environ={"DEDUPFS_CONFIG": str(one)})
    assert options.capacity_bytes == 2 << 30


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"config file .*/no\.toml: No such file"):
        found(tmp_path, f"config={tmp_path}/no.toml")


def test_another_mounts_table_does_not_count(tmp_path: Path) -> None:
    write(
        tmp_path / "xdg/dedupfs/config.toml", f'[mounts."{tmp_path}/other"]\nallow-other = true\n'
    )
    assert not found(tmp_path).allow_other


def test_a_table_may_name_the_mount_point_by_home_or_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    for key in ("~/mnt", f"{tmp_path}/link"):
        write(
            tmp_path / "xdg/dedupfs/config.toml", f'[mounts."{key}"]\nstore = "~/kept"\nttl = 5.5\n'
        )
        options = found(tmp_path)
        assert (options.store, options.ttl_s) == (tmp_path / "kept", 5.5)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('capcity = "1G"', ['capcity = "1G": unknown key; did you mean "capacity"?']),
        ("min_free = 1", ['did you mean "min-free"?']),
        ("zzz = 1", ["unknown key; known are store, io"]),
        ('capacity = "lots"', ['capacity = "lots": want a size above 0']),
        ("capacity = true", ["capacity = true: want a size"]),
        ("capacity = [1]", ["capacity = [1]: want a size"]),
        ('allow-other = "true"', ['allow-other = "true": want true or false']),
        ("allow-other = 1", ["allow-other = 1: want true or false"]),
        ('policy = "lur"', ["want one of lru", 'did you mean "lru"?']),
        ('store = "here"', ['store = "here": want an absolute path, or one from ~']),
        ("high-mark = 0.5", ["low-mark 90% (default) must be below high-mark 50%"]),
        ("capacity = 200G\n", ["no TOML", "line 1", 'capacity = "200G"']),
        ("mounts = 1", ['want tables such as [mounts."/path"]']),
        ('[mounts."rel"]', ['[mounts."rel"]: want a table of an absolute path']),
        ('[mounts."/x"]\nio = "slow"', ['[mounts."/x"] io = "slow": want one of auto']),
        ('[mount."/x"]', ['mount = a table: unknown key; did you mean "mounts"?']),
    ],
)
def test_a_wrong_file_is_one_line_with_file_key_and_what_is_wanted(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    path = write(tmp_path / "xdg/dedupfs/config.toml", text)
    with pytest.raises(BadOption) as caught:
        found(tmp_path)
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_lists_and_true_where_they_make_sense(tmp_path: Path) -> None:
    write(
        tmp_path / "xdg/dedupfs/config.toml", 'auto-gc = true\nfuse-options = ["ro", "context=a,b"]'
    )
    options = found(tmp_path)
    assert options.auto_gc_s == 600
    assert options.extra == ("ro", "context=a,b")


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"^DEDUPFS_LOW_MARK=90: want a share"):
        found(tmp_path, environ={"DEDUPFS_LOW_MARK": "90"})
    assert found(tmp_path, environ={"DEDUPFS_LOW_MARK": ""}).low_mark == 0.9
    (line,) = config.misspelt_variables({"DEDUPFS_CAPCITY": "1G", "DEDUPFS_TRACEBACK": "1"})
    assert (
        'DEDUPFS_CAPCITY in the environment is no option; did you mean "DEDUPFS_CAPACITY"' in line
    )


def test_a_wrong_flag_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"^--capacity lots: want a size"):
        found(tmp_path, capacity="lots")


def test_a_relative_store_counts_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert found(tmp_path, store="s").store == tmp_path / "s"
    assert found(tmp_path).store == tmp_path / ".mnt.dedupfs"


def listed(text: str) -> dict[str, object]:
    layer = settings.parse_option_list(text).layer
    return {name: setting.value for name, setting in layer.items()}


def test_our_own_options_in_a_list() -> None:
    assert listed("allow_other,io=passthrough,store=/s,log-file=/l,foreground,auto_gc") == {
        "allow-other": True,
        "io": IoMode.PASSTHROUGH,
        "store": Path("/s"),
        "log-file": Path("/l"),
        "foreground": True,
        "auto-gc": 600,
    }
    assert listed("min-free=5%,allow_other=false")["allow-other"] is False


def test_fuse_options_are_passed_on_in_order() -> None:
    text = "ro,nosuid,nodev,noexec,noatime,default_permissions,context=x,rw,suid,dev,exec"
    assert listed(text) == {"fuse-options": tuple(text.split(","))}


@pytest.mark.parametrize(
    "noise",
    [
        "defaults", "auto", "noauto", "user", "users", "nouser", "user=alice", "nofail", "_netdev",
        "x-systemd.automount", "x-systemd.requires=network.target", "X-mount.mkdir", "relatime",
        "comment=cache", "owner", "group",
    ],
)  # fmt: skip
def test_what_fstab_adds_is_dropped(noise: str) -> None:
    assert listed(f"{noise},ro") == {"fuse-options": ("ro",)}


@pytest.mark.parametrize(
    "wrong", ["frob", "allow_root", "subtype=x", "fsname=y", "ro=1", "fd=3", "max_read=65536"]
)
def test_an_unknown_option_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(BadOption, match=f"unknown mount option '{wrong}'"):
        settings.parse_option_list(f"ro,{wrong}")


def test_a_misspelt_option_is_guessed() -> None:
    with pytest.raises(BadOption, match='did you mean "capacity"'):
        settings.parse_option_list("capasity=1G")


@pytest.mark.parametrize("wrong", ["io", "io=", "capacity"])
def test_a_value_that_is_missing_is_asked_for(wrong: str) -> None:
    with pytest.raises(BadOption, match=f"mount option {wrong} needs a value"):
        settings.parse_option_list(wrong)


def test_a_value_may_hold_an_escaped_comma() -> None:
    assert listed(r"store=/a\,b,ro")["store"] == Path("/a,b")


def test_an_empty_list_asks_for_nothing() -> None:
    assert listed("") == listed(" ,,") == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")
def test_a_home_of_another_user_has_no_file_for_this_one(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresuid(4321, 4321, 4321)
            code = len(config.load_all(None, {"XDG_CONFIG_HOME": str(home)}))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
