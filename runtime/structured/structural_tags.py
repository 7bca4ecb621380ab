"""Structural tags: text whose structure begins where it comes to some mark, as xgrammar, SGLang and vLLM have them.

One is `{"format": ...}`, a form as tag_fields.py has them. The older `{"structures": [{"begin": ..., "schema": ...,
"end": ...}, ...], "triggers": [...]}` leaves the text free; wherever it comes to a trigger, one of the structures
follows that begin with it: the rest of `begin`, JSON of `schema`, and `end`; then the text is free again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.structured.tag_fields import Form
from inflight.runtime.structured.tag_grammar import TagGrammar
from inflight.runtime.text.tokenizer import Tokenizer

_KEYS = {"type", "structures", "triggers"}
_WHAT = "A structural tag"


def tag_grammar(tag: Mapping[str, Any], tokenizer: Tokenizer) -> str:
    """In llguidance's Lark. Raises RequestError for what is no structural tag."""
    return TagGrammar(tokenizer).text(_form(tag))


def _form(tag: Mapping[str, Any]) -> Form:
    if "format" not in tag:
        return Form.of(_triggered_tags(tag), "structures")
    if unknown := sorted(set(tag) - {"type", "format"}):
        raise RequestError(f"{_WHAT} with a format has no {unknown[0]!r}.")
    return Form.of(tag["format"], "format")


def _triggered_tags(tag: Mapping[str, Any]) -> dict[str, Any]:
    """The older form in the newer one."""
    if unknown := sorted(set(tag) - _KEYS):
        raise RequestError(f"{_WHAT} has no {unknown[0]!r}; it has a format, or structures and triggers.")
    structures, triggers = tag.get("structures"), tag.get("triggers")
    if not isinstance(triggers, list) or not triggers or not all(isinstance(t, str) and t for t in triggers):
        raise RequestError(f"{_WHAT} needs triggers: a list of strings, none of them empty.")
    if not isinstance(structures, list) or not structures:
        raise RequestError(f"{_WHAT} needs structures: a list of objects with begin, schema and end.")
    tags = [_tag(f"{_WHAT}'s structure {place}", each) for place, each in enumerate(structures)]
    return {"type": "triggered_tags", "triggers": triggers, "tags": tags}


def _tag(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or set(value) - {"begin", "schema", "end"}:
        raise RequestError(f"{where} must be an object with begin, schema and end.")
    begin, schema, end = value.get("begin"), value.get("schema", {}), value.get("end", "")
    if not isinstance(begin, str) or not isinstance(end, str) or not isinstance(schema, Mapping | bool):
        raise RequestError(f"{where} must have strings begin and end, and a JSON schema.")
    content = {"type": "json_schema", "json_schema": schema}
    return {"type": "tag", "begin": begin, "content": content, "end": end}
