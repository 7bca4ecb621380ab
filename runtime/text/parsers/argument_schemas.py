"""Schemas of arguments that a grammar can write one by one, as notations that are no JSON need it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from inflight.runtime.structured.json_grammar import json_rule, one_of
from inflight.runtime.text.parsers.function_block import is_text

# What may stand in the schema of an argument for it to be any text.
_OF_ANY_TEXT = {"type", "description", "title", "default", "examples"}
# What stands between marks and can be nothing else.
_WORD = re.compile(r"[^\s<>](?:[^<>\n]*[^\s<>])?")


def is_separate(schema: Mapping[str, Any]) -> bool:
    """Whether each argument can be told apart by itself: no condition holds for several, and none refers to another."""
    if set(schema) - {"type", "properties", "required", "additionalProperties", "description", "title", "$schema"}:
        return False
    properties = schema.get("properties", {})
    return not set(schema.get("required", ())) - set(properties) and "$ref" not in json.dumps(properties)


def is_simple(schema: Mapping[str, Any]) -> bool:
    """Whether they are, and strings are any text or one of some words. Other arguments are written as JSON."""
    properties = schema.get("properties", {})
    return is_separate(schema) and all(
        _WORD.fullmatch(key) and _is_simple_argument(each) for key, each in properties.items()
    )


class Argument(NamedTuple):
    """What an argument is in a grammar. `value`: the name of a rule, for JSON or for one of some words; "": any text.
    `is_text`: its value is text and no JSON."""

    key: str
    value: str
    is_text: bool
    is_required: bool


def simple_arguments(name: str, schema: Mapping[str, Any]) -> tuple[list[Argument], list[str]]:
    """The arguments of a schema that `is_simple`, in its order, and the rules of their values, whose names begin with
    `name`."""
    required = schema.get("required", ())
    arguments, rules = [], []
    for number, (key, each) in enumerate(schema.get("properties", {}).items()):
        is_any = is_text(each) and "enum" not in each
        value = "" if is_any else f"{name}_{number}"
        if not is_any:
            rules.append(f"{value}: {one_of(each['enum']) if is_text(each) else json_rule(each)}")
        arguments.append(Argument(key, value, is_text(each), key in required))
    return arguments, rules


def in_order(name: str, arguments: Sequence[tuple[str, bool]], comma: str) -> list[str]:
    """Rules of a Lark grammar in which `name` is the arguments in their order, with `comma` between them. Each is what
    stands for it in the grammar, and whether it is required; others may be left out."""
    rules = [f'{name}_first_{len(arguments)}: ""', f'{name}_next_{len(arguments)}: ""']
    for number, (argument, is_required) in enumerate(arguments):
        first, then = (f"{name}_{place}_{number + 1}" for place in ("first", "next"))
        left_out = ("", "") if is_required else (f" | {first}", f" | {then}")
        rules.append(f"{name}_first_{number}: {argument} {then}{left_out[0]}")
        rules.append(f"{name}_next_{number}: {comma} {argument} {then}{left_out[1]}")
    return [f"{name}: {name}_first_0", *rules]


def _is_simple_argument(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    if is_text(schema):
        return not set(schema) - _OF_ANY_TEXT or (set(schema) <= {*_OF_ANY_TEXT, "enum"} and _are_words(schema["enum"]))
    return schema.get("type") in ("integer", "number", "boolean", "object", "array")


def _are_words(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(each, str) and _WORD.fullmatch(each) for each in values)
