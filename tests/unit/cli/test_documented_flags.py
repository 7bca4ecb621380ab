"""Every flag that other tools document has a row; test_foreign_flags.py types each row in every spelling."""

from __future__ import annotations

import pytest

from inflight.migration.row import letters
from inflight.migration.sources import SOURCES
from tests.unit.cli.documented_flags import DOCUMENTED

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("tool", DOCUMENTED)
def test_every_documented_flag_has_a_row(tool: str) -> None:
    source = next(each for each in SOURCES if each.tool == tool)
    assert [flag for flag in DOCUMENTED[tool] if letters(flag) not in source.by_name] == []
