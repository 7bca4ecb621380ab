"""What the suite found out: a row per check, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One check after one phase. `where`: the mode of the server, or the command."""

    where: str
    phase: str
    check: str
    passed: bool
    figures: str = ""


def table(rows: Sequence[Row]) -> str:
    """Columns that are as wide as their text."""
    head = ("", "where", "phase", "check", "figures")
    cells = [("ok" if row.passed else "FAILED", row.where, row.phase, row.check, row.figures) for row in rows]
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(head) - 1)]
    lines = [
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1]])
        for line in [head, *cells]
    ]
    failed = sum(not row.passed for row in rows)
    return "\n".join([*(line.rstrip() for line in lines), f"{len(rows)} checks, {failed} failed"])


def write(rows: Sequence[Row], seed: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seed": seed, "checks": [asdict(row) for row in rows]}, indent=1) + "\n")
