"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_output = Console()


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """One fact a line; nested mappings are shown under dotted names."""
    table = Table(title=escape(title), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for name, value in _flatten(facts):
        table.add_row(escape(name), escape(_shown(value)))
    _output.print(table)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table with a column per key of the first row, and totals under the columns that count; no rows, no table."""
    if not rows:
        return
    totals = {name: sum(row[name] for row in rows) for name in rows[0] if name in ("tensors", "parameters", "bytes")}
    table = Table(title=escape(title), title_justify="left", show_footer=bool(totals))
    for name, value in rows[0].items():
        footer = _shown(totals[name]) if name in totals else ""
        table.add_column(
            name.replace("_", " "),
            footer=footer,
            justify="right" if isinstance(value, int) else "left",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(escape(_shown(value)) for value in row.values()))
    _output.print(table)


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((prefix + name, value))
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(_shown(item) for item in value.values())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value) if value else "-"
    return str(value)
