"""What a part has found, written after each finding."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Report:
    """Findings by name, and failures in words, in the section of a part in the file of results, which is complete at
    any time. `failures` are those of this process; the section has those of the processes before it as well."""

    def __init__(self, path: Path, part: str) -> None:
        self._path, self._part = path, part
        self.failures: list[str] = []

    def add(self, name: str, value: Any) -> None:
        self._section("found", {}).update({name: value})
        self._write()

    def fail(self, text: str) -> None:
        self.failures.append(text)
        self._section("failures", []).append(text)
        self._write()

    def found_by(self, part: str) -> dict[str, Any]:
        """What another part has found before."""
        return dict(json.loads(self._path.read_text()).get(part, {}).get("found", {}))

    def _section(self, kind: str, empty: Any) -> Any:
        self._results = json.loads(self._path.read_text())
        return self._results.setdefault(self._part, {}).setdefault(kind, empty)

    def _write(self) -> None:
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps(self._results, indent=1) + "\n")
        os.replace(scratch, self._path)
