"""docs/migration.md has the tables that the command line reads, whole and as they are now."""

from __future__ import annotations

import sys

import pytest

from inflight.migration.sources import SOURCES
from tests.paths import SCRIPTS

sys.path.append(str(SCRIPTS))

from migration_page import PAGE, table, with_tables

pytestmark = pytest.mark.unit


def test_the_page_is_what_the_script_writes() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run python scripts/migration_page.py"
    for source in SOURCES:
        assert f"<!-- table: {source.tool} -->" in page


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.tool)
def test_every_name_has_a_row(source: object) -> None:
    from inflight.migration.sources import Source

    assert isinstance(source, Source)
    text = "\n".join(table(source))
    for row in source.rows:
        for name in row.names:
            shown = name if source.verb else name.lstrip("-").replace("-", "_")
            assert not name.startswith("--") or f"`{shown}`" in text
