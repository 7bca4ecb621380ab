"""Writes the tables of docs/migration.md out of those of src/inflight/migration: python scripts/migration_page.py"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from inflight.cli.main import build_app
from inflight.cli.options.foreign import FlagReader
from inflight.migration.methods import METHODS
from inflight.migration.row import MODEL, NOTED, REFUSED, Row
from inflight.migration.sources import SOURCES, Source

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migration.md"
_TABLE = re.compile(r"(<!-- table: (\S[^>]*\S) -->\n).*?(<!-- end -->)", re.S)
METHODS_TABLE = "vllm.LLM methods"
_CALLED = {"": "is not given", MODEL: "the argument `MODEL`"}


def with_tables(page: str) -> str:
    """The page with every table between its marks written anew."""
    sources = {source.tool: source for source in SOURCES}

    def lines(name: str) -> Iterator[str]:
        return methods_table() if name == METHODS_TABLE else table(sources[name])

    return _TABLE.sub(lambda found: found[1] + "\n".join(lines(found[2])) + "\n" + found[3], page)


def methods_table() -> Iterator[str]:
    """The lines of the table of methods, those of one reason in one row."""
    yield f"| {METHODS_TABLE} | here |"
    yield "| --- | --- |"
    reasons: dict[str, list[str]] = {}
    for name, reason in METHODS.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    for reason, names in reasons.items():
        yield f"| {', '.join(names)} | {reason} |"


def table(source: Source) -> Iterator[str]:
    """The lines of one table: what is honoured row by row, the rest by its reason."""
    yield f"| {source.tool} | here |"
    yield "| --- | --- |"
    cells: dict[str, list[str]] = {}
    own = _own(source)
    for order in ("honoured", "noted", "refused"):
        for row in source.rows:
            same = own is not None and own.own(row.name) is not None
            if order == ("honoured" if same else row.verdict):
                cells.setdefault(_here(row, source, same), []).append(_spelled(row, source))
    for here, names in cells.items():
        yield f"| {', '.join(names)} | {here} |"


def _own(source: Source) -> FlagReader | None:
    if not source.verb:
        return None
    group: Any = get_command(build_app([source.verb]))
    return FlagReader(source.verb, group.commands[source.verb].params)


def _spelled(row: Row, source: Source) -> str:
    names = row.names if source.verb else [name.lstrip("-").replace("-", "_") for name in row.names if name[:2] == "--"]
    return " ".join(f"`{name}`" for name in names)


def _here(row: Row, source: Source, same: bool) -> str:
    if not same and row.verdict == "noted":
        return f"changes nothing: {row.why}"
    if not same and row.verdict == "refused":
        fine = f" (`{'`, `'.join(sorted(row.fine))}` is taken)" if row.fine else ""
        return f"refused{fine}: {row.why}"
    here = _CALLED.get(row.here, f"`{row.here}`" if source.verb else f"`{row.here.lstrip('-').replace('-', '_')}`")
    if same or row.here == row.name:
        here = "the same"
    parts = [here, row.why if row.verdict == "honoured" else ""]
    for value, meaning in row.values.items():
        if meaning.startswith(REFUSED):
            parts.append(f"`{value}` is refused: {meaning[1:].rstrip('.')}")
        elif meaning.startswith(NOTED):
            parts.append(f"`{value}`: {meaning[1:].rstrip('.')}")
        else:
            parts.append(f"`{value}` is `{meaning}`")
    return "; ".join(part for part in parts if part)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
