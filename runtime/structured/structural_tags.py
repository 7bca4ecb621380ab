"""Structural tags: free text in which what follows a trigger has a structure, as xgrammar, SGLang and vLLM have them.

They are `{"structures": [{"begin": ..., "schema": ..., "end": ...}, ...], "triggers": [...]}`. Wherever the text comes
to a trigger, one of the structures follows that begin with it: the rest of `begin`, JSON of `schema`, and `end`; then
the text is free again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.structured.json_grammar import json_rule, special_token
from inflight.runtime.text.tokenizer import Tokenizer

_KEYS = {"type", "structures", "triggers"}
_WHAT = "A structural tag"


@dataclass(frozen=True, slots=True)
class Structure:
    """`trigger` is what `begin` begins with."""

    trigger: str
    begin: str
    schema: Mapping[str, Any] | bool
    end: str


def read_structures(tag: Mapping[str, Any]) -> list[Structure]:
    """Raises RequestError for what is none, and for a structure without a trigger or a trigger without a structure."""
    if "format" in tag:
        raise RequestError(
            f"{_WHAT} of the form 'format' is not supported.", "Write it with structures and triggers: see the docs."
        )
    if unknown := sorted(set(tag) - _KEYS):
        raise RequestError(f"{_WHAT} has no {unknown[0]!r}; it has structures and triggers.")
    structures, triggers = tag.get("structures"), tag.get("triggers")
    if not isinstance(triggers, list) or not triggers or not all(isinstance(t, str) and t for t in triggers):
        raise RequestError(f"{_WHAT} needs triggers: a list of strings, none of them empty.")
    if not isinstance(structures, list) or not structures:
        raise RequestError(f"{_WHAT} needs structures: a list of objects with begin, schema and end.")
    found = [_structure(place, each, triggers) for place, each in enumerate(structures)]
    if idle := [trigger for trigger in triggers if trigger not in {each.trigger for each in found}]:
        raise RequestError(f"No structure begins with the trigger {idle[0]!r}.")
    return found


def tags_grammar(structures: list[Structure], tokenizer: Tokenizer) -> str:
    """In llguidance's Lark. A trigger that is one special token is met as that token alone."""
    lines = ["start: (" + " | ".join(f"tag_{n}" for n in range(len(structures))) + ")* last", "last: TEXT"]
    lines.append(r"TEXT: /(.|\n)*/")
    triggers = {trigger: n for n, trigger in enumerate(dict.fromkeys(each.trigger for each in structures))}
    for trigger, n in triggers.items():
        token = special_token(trigger, tokenizer)
        lines.append(f"trigger_{n}: TEXT {token}" if token else f"trigger_{n}[lazy]: TEXT {_quoted(trigger)}")
    for n, each in enumerate(structures):
        rest = each.begin[len(each.trigger) :]
        parts = [f"trigger_{triggers[each.trigger]}", _quoted(rest), json_rule(each.schema), _quoted(each.end)]
        lines.append(f"tag_{n}: {' '.join(part for part in parts if part)}")
    return "\n".join(lines)


def _structure(place: int, value: object, triggers: list[str]) -> Structure:
    where = f"{_WHAT}'s structure {place}"
    if not isinstance(value, Mapping) or set(value) - {"begin", "schema", "end"}:
        raise RequestError(f"{where} must be an object with begin, schema and end.")
    begin, schema, end = value.get("begin"), value.get("schema", {}), value.get("end", "")
    if not isinstance(begin, str) or not isinstance(end, str) or not isinstance(schema, Mapping | bool):
        raise RequestError(f"{where} must have strings begin and end, and a JSON schema.")
    trigger = max((each for each in triggers if begin.startswith(each)), key=len, default=None)
    if trigger is None:
        raise RequestError(f"{where} begins with {begin!r}, which begins with none of the triggers.")
    return Structure(trigger, begin, schema, end)


def _quoted(text: str) -> str:
    """In ASCII: llguidance takes some control characters in a string by their escapes alone."""
    return json.dumps(text) if text else ""
