"""`dedupfs config`: what it says is what a mount does."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest

from dedupfs.service.options import OPTIONS
from mount.mounted import dedupfs, one_line

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(
        f'capacity = "200G"\n[mounts."{tmp_path}/mnt"]\nmin-free = "10%"\nallow-other = true\n'
    )
    monkeypatch.setenv("DEDUPFS_TTL", "7d")
    return path


def shown(*arguments: str | Path) -> dict[str, dict[str, str]]:
    done = dedupfs("config", "show", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["mounted"] is False
    assert set(document["options"]) == set(OPTIONS)
    options: dict[str, dict[str, str]] = document["options"]
    return options


def test_what_a_mount_would_use_and_where_it_comes_from(tmp_path: Path, file: Path) -> None:
    options = shown(tmp_path / "mnt", "--config", file)
    assert options["capacity"] == {"value": "200G", "source": f"{file}: capacity"}
    assert options["min-free"] == {
        "value": "10%",
        "source": f'{file}: [mounts."{tmp_path}/mnt"] min-free',
    }
    assert options["ttl"] == {"value": "7d", "source": "DEDUPFS_TTL"}
    assert options["store"] == {"value": f"{tmp_path}/.mnt.dedupfs", "source": "default"}
    assert options["io"] == {"value": "auto", "source": "default"}


def test_what_is_the_same_for_all_mounts(file: Path) -> None:
    options = shown("--config", file)
    assert options["capacity"]["value"] == "200G"
    assert options["min-free"] == {"value": "5%, as a goal", "source": "default"}
    assert "beside the mount point" in options["store"]["value"]


def test_the_table_has_the_same(file: Path) -> None:
    text = dedupfs("config", "show", "--config", file).stdout
    assert "any mount point" in text
    for word in (*OPTIONS, "200G", "DEDUPFS_TTL", "default"):
        assert word in text


def test_the_files_that_count(tmp_path: Path, file: Path) -> None:
    assert dedupfs("config", "path").stdout.strip() == os.devnull
    assert dedupfs("config", "path", "--config", file).stdout.strip() == str(file)
    missing = tmp_path / "no"
    assert dedupfs("config", "path", "--config", missing).stdout.strip() == f"{missing}  (missing)"


def test_a_right_file_is_fine(file: Path) -> None:
    assert "3 options, 1 mount points, fine" in one_line(dedupfs("config", "check", file).stdout)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("capcity = 1", 'did you mean "capacity"'),
        ("low-mark = 0.8\n[mounts.'/x']\nhigh-mark = 0.8", "must be below high-mark 80%"),
    ],
)
def test_a_wrong_file_is_one_line_for_check_show_and_mount(
    tmp_path: Path, file: Path, text: str, part: str
) -> None:
    file.write_text(text)
    commands = [["check", file], ["show", "/x", "--config", file]]
    for command in commands:
        done = dedupfs("config", *command)
        assert done.returncode == 1
        assert part in one_line(done.stderr)
        assert str(file) in done.stderr
    done = dedupfs("mount", tmp_path, "-o", f"config={file}")
    assert done.returncode == 1
    one_line(done.stderr)


def test_a_tiny_capacity_is_warned_about(file: Path) -> None:
    file.write_text("capacity = 1000")
    assert "warning: capacity 1000" in one_line(dedupfs("config", "check", file).stderr)


def test_every_line_of_the_example_may_be_used(file: Path) -> None:
    text = dedupfs("config", "example").stdout
    used = re.sub(r"^# (?=[a-z-]+ = |\[)", "", text, flags=re.MULTILINE)
    file.write_text(used)
    done = dedupfs("config", "check", file)
    assert f"{len(OPTIONS) + 1} options, 1 mount points, fine" in done.stdout, done.stderr
    file.write_text(text)
    assert "0 options" in dedupfs("config", "check", file).stdout
