"""What `make bench` prints: the sections, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.sections import SECTIONS, Bench, Section

if TYPE_CHECKING:
    from bench.sections import Options

pytestmark = [pytest.mark.bench, pytest.mark.timeout(0), pytest.mark.usefixtures("no_stack_dumps")]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_section(options: Options, bench: Bench, section: Section) -> None:
    if options.sections and section.name not in options.sections:
        pytest.skip("not asked for")
    bench.console.print(f"\n[bold]{section.name}[/]")
    section.run(bench)
