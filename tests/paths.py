"""Places in the repository."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SCRIPTS = ROOT / "scripts"
TESTS = ROOT / "tests"
EXAMPLES = ROOT / "examples"
