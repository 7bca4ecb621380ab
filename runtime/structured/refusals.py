"""Why a structured output is refused, in words that say where: a place of the schema or tag, a line of the grammar."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.structured.outputs import StructuredOutputs

# Why one cannot be used; None: it can.
WhyNot = Callable[[StructuredOutputs], str | None]

NO_TEXT = "no text meets it"
_NAMES = {"json": "JSON schema", "json_object": "JSON object", "regex": "regular expression"}
_NAMES |= {"structural_tag": "structural tag"}
_AS_GBNF = "Failed to convert the grammar from GBNF to Lark:"
# What the compiler says where no token can come first.
_NO_TOKEN = "NoExtensionBias"
# It advises an option that no client can set.
_ONE_OF = re.compile(r"oneOf constraints are not supported\. Enable 'coerce_one_of'[^.\n]*")
# An expression, and marks under the place that is meant.
_EXPRESSION = re.compile(
    r"(?:invalid regex .*\(in regex\): )?regex parse error:\n"
    r" {4}(?P<text>.*)\n {4}(?P<before> *)\^+ *\nerror: (?P<what>.*)"
)
_LINE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")
# The lines of a grammar as the compiler shows them, which may be its own text; by the last it says that it is brief.
_SHOWN = re.compile(r"\d+ \| .*|\^+|<non-verbose/>")
_REQUIRED = re.compile(r"required property '(.*)' is unsatisfiable")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
# For how long, of processor time, parts are compiled on their own to find the one that is meant: others wait for their
# grammars.
_SEARCH_S = 0.25


def refusal(outputs: StructuredOutputs, reason: str, why_not: WhyNot) -> RequestError:
    """`reason`: the compiler's, of the whole. `why_not` is asked for parts of it, for a quarter of a second."""
    place, deadline = "", time.thread_time() + _SEARCH_S

    def why_part(part: StructuredOutputs) -> str | None:
        return why_not(part) if time.thread_time() < deadline else None

    if outputs.json is not None:
        place, reason = _in_schema(json.loads(outputs.value), reason, why_part)
    elif outputs.structural_tag is not None:
        place, reason = _in_tag(json.loads(outputs.value), reason, why_part)
    elif outputs.grammar is not None:
        place, reason = _in_grammar(outputs.grammar, reason, why_part)
    is_lark = outputs.grammar is not None and "::=" not in outputs.grammar
    told = f"{place}: " if place else ""
    return RequestError(
        f"The {_NAMES.get(outputs.kind, outputs.kind)} cannot be used: {told}{_in_words(reason, is_lark)}"
    )


def _in_words(reason: str, has_lines: bool) -> str:
    reason = _LINE.sub(r"line \1, column \2: " if has_lines else "", reason)
    reason = _EXPRESSION.sub(_expression, reason)
    reason = reason.replace(_NO_TOKEN, f"{NO_TEXT}: a rule begins with itself, or the tokens cannot spell it")
    reason = reason.replace(_AS_GBNF, "It has no rule as Lark has them (name: ...), and read as GBNF:")
    reason = _ONE_OF.sub("oneOf needs alternatives of which no two can hold at once; use anyOf", reason)
    lines = [line.strip() for line in reason.splitlines()]
    return " ".join(line for line in lines if line and not _SHOWN.fullmatch(line))[:500]


def _expression(found: re.Match[str]) -> str:
    return f"{found['what']} at character {len(found['before']) + 1} of {found['text']:.80}"


def _in_schema(schema: Any, reason: str, why_not: WhyNot) -> tuple[str, str]:
    """The pointer of the innermost part that explains `reason`, "" for the whole, and its own reason."""
    if not isinstance(schema, Mapping):
        return "", reason
    definitions = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    place, node = "", schema
    while True:
        named = _REQUIRED.search(reason)
        for step, part in _parts(node):
            is_named = named is not None and step == ("properties", named[1])
            is_item = "required item is unsatisfiable" in reason and step[0] in ("items", "prefixItems")
            if part is False and (is_named or is_item):
                return place + _pointer(step), "false is met by nothing"
            if not isinstance(part, Mapping) or (named is not None and not is_named):
                continue
            own = why_not(StructuredOutputs(json={**definitions, **part}))
            if own is not None and (own == reason or is_named or is_item):
                place, reason, node = place + _pointer(step), own, part
                break
        else:
            return place, reason


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas directly within one, each with the steps to it."""
    for keyword, value in schema.items():
        if keyword in _BY_NAME and isinstance(value, Mapping):
            yield from (((keyword, name), each) for name, each in value.items())
        elif keyword in _LISTS and isinstance(value, list):
            yield from (((keyword, str(index)), each) for index, each in enumerate(value))
        elif keyword in _SINGLE:
            yield (keyword,), value


def _pointer(steps: tuple[str, ...]) -> str:
    """As RFC 6901 writes them."""
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)


def _in_tag(tag: Mapping[str, Any], reason: str, why_not: WhyNot) -> tuple[str, str]:
    """The first schema, expression or grammar in a structural tag that cannot be used by itself."""
    for place, outputs in _forms(tag, ""):
        own = why_not(outputs)
        if own is not None:
            pointer, own = (
                _in_schema(json.loads(outputs.value), own, why_not) if outputs.json is not None else ("", own)
            )
            return place + pointer, own
    return "", reason


def _in_grammar(grammar: str, reason: str, why_not: WhyNot) -> tuple[str, str]:
    """Which schema in a grammar in Lark's syntax is meant, by its title or its beginning, and the part of it; "" for a
    reason that is about no schema."""
    line = _LINE.match(reason)
    lines = grammar.splitlines()
    if line is None or "failed to compile JSON schema" not in reason or int(line[1]) > len(lines):
        return "", reason
    for text in lines[int(line[1]) - 1].split("%json")[1:]:
        try:
            schema, _ = json.JSONDecoder().raw_decode(text.lstrip())
        except ValueError:
            continue
        own = why_not(StructuredOutputs(json=schema)) if isinstance(schema, Mapping) else None
        if own is not None:
            place, own = _in_schema(schema, own, why_not)
            shown = json.dumps({name: value for name, value in schema.items() if name != "x-guidance"})
            named = f"'{schema['title']}'" if schema.get("title") else f"{shown:.60}"
            return f"the JSON schema {named}, {place}" if place else f"the JSON schema {named}", own
    return "", reason


def _forms(value: Any, place: str) -> Iterator[tuple[str, StructuredOutputs]]:
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield from _forms(each, f"{place}.{index}")
    elif isinstance(value, Mapping):
        fields = {"json_schema": "json", "pattern": "regex", "grammar": "grammar", "schema": "json"}
        for name, each in value.items():
            where = f"{place}.{name}".removeprefix(".")
            if name in fields:
                yield where, StructuredOutputs.of({fields[name]: each})
            else:
                yield from _forms(each, where)
