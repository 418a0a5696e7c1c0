"""How a plan of eviction is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dedupfs.cli import evict

if TYPE_CHECKING:
    import pytest


def test_thousands_of_sharers_are_counted_not_listed(capsys: pytest.CaptureFixture[str]) -> None:
    sharers = [f"u{number}" for number in range(4000)]
    row = {"path": "v", "frees_bytes": 4096, "reason": "owner died", "with": sharers}
    evict._show(
        {"plan": [row], "protected": [], "done": False, "units": 4001, "frees_bytes": 4096,
         "is_enough": True},
        as_json=False,
    )  # fmt: skip
    told = " ".join(capsys.readouterr().out.split())
    assert "owner died, with u0, u1, u2 and 3,997 more" in told
    assert "u3," not in told
