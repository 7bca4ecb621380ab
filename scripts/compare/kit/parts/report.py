"""What a part has found, written after each finding."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Report:
    """Findings by name, and failures in words; the file is complete at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, Any] = {}
        self.failures: list[str] = []

    def add(self, name: str, value: Any) -> None:
        self.found[name] = value
        self._write()

    def fail(self, text: str) -> None:
        self.failures.append(text)
        self._write()

    def _write(self) -> None:
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps({"found": self.found, "failures": self.failures}, indent=1) + "\n")
        os.replace(scratch, self._path)
