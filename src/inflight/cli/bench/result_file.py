"""The JSON files that `inflight bench` writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def write_result(path: Path, values: dict[str, Any]) -> None:
    """Write `values`; the folder is made where it is missing. A figure without samples (NaN) is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(values), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
