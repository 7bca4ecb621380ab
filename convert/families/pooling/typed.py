"""Values of JSON files by their keys: one of another type than a key may have is noted and left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Characters of a value.
_MOST = 80


class Kind(NamedTuple):
    """What a key may hold: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


TEXT = Kind("a text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
COUNT = Kind("a positive integer", lambda value: is_count(value))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TEXTS = Kind("a list of texts", lambda value: _are_texts(value))
ONE_OR_MORE = Kind("a text or a list of texts", lambda value: isinstance(value, str) or _are_texts(value))
NAMED_TEXTS = Kind(
    "an object of texts",
    lambda value: isinstance(value, dict) and all(text is None or isinstance(text, str) for text in value.values()),
)


def typed(raw: Mapping[str, Any], kinds: Mapping[str, Kind], file: str, problems: list[str]) -> dict[str, Any]:
    """The values of `kinds` that `raw`, of `file`, has; null counts as absent. Those of another type go to
    `problems`."""
    found = {}
    for key, kind in kinds.items():
        value = raw.get(key)
        if value is None:
            continue
        if kind.holds(value):
            found[key] = value
        else:
            problems.append(f"{key} of {file} must be {kind.words}, not {shown(value)}")
    return found


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def shown(value: Any) -> str:
    """In a message, of which it may not be the most."""
    text = repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
