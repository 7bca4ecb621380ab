"""Typed access to a Hugging Face model's config.json: what is missing or malformed is noted, and reading goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from inflight.convert.checkpoint.config import MAX_SIZE

# Where a config under other names than its file's keeps those: {key here: key of the file}.
NAMES_KEY = "keys_of_the_file"


def names_of(raw: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """What says that values of `raw` lie under other keys than in their file: {key here: key there}."""
    known: Mapping[str, str] = raw.get(NAMES_KEY, {})
    return {NAMES_KEY: {**known, **{ours: known.get(theirs, theirs) for ours, theirs in names.items()}}}


class ConfigValues:
    """The raw values over a family's defaults; a problem yields a harmless value and a line in `problems`."""

    def __init__(self, raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.raw = {**defaults, **raw}
        self.problems: list[str] = []
        self._names: Mapping[str, str] = raw.get(NAMES_KEY, {})
        self.shapes_known = True

    def count(self, key: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """A positive integer up to `most`; null and absent mean `default`."""
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most:
            return value
        self.shapes_known = False
        if value is None:
            self.problems.append(f"config.json has no {key}")
        else:
            limit = f" up to {most}" if isinstance(value, int) and value > most else ""
            self.problems.append(f"{self.named(key)} must be a positive integer{limit}, not {value!r}")
        return 1

    def number(self, key: str, default: float) -> float:
        """A positive number; null and absent mean `default`."""
        value = self.raw.get(key)
        value = default if value is None else value
        if _is_positive(value):
            return float(value)
        self.problems.append(f"{self.named(key)} must be a positive number, not {value!r}")
        return default

    def optional_number(self, key: str) -> float | None:
        """A positive number; null means that there is none."""
        if self.raw.get(key) is None or _is_positive(self.raw[key]):
            return None if self.raw.get(key) is None else float(self.raw[key])
        self.problems.append(f"{self.named(key)} must be a positive number or null, not {self.raw[key]!r}")
        return None

    def flag(self, key: str | bool) -> bool:
        """The boolean under `key`, absent meaning false; a boolean stands for itself."""
        if isinstance(key, bool):
            return key
        value = self.raw.get(key)
        if value not in (None, True, False):
            self.problems.append(f"{self.named(key)} must be true or false, not {value!r}")
        return bool(value)

    def refuse(self, key: str, why: str) -> None:
        """Note the value of `key`, unless it is null or false, as one that cannot be followed."""
        if self.raw.get(key) not in (None, False):
            self.problems.append(f"{self.named(key)} {self.raw[key]!r} is not supported: {why}")

    def named(self, key: str) -> str:
        """What the file calls it."""
        return self._names.get(key, key)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
