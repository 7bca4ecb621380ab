"""JSON schemas as the compiler follows them to the letter: what it would round is refused, and what it only knows in
other words is said in those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inflight.errors import RequestError

# Keywords whose numbers are part of the text, or bound it.
_OF_NUMBERS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Up to here every integer is a number of 64 bits with a floating point, in which the compiler keeps them all.
_EXACT = 1 << 53


def followable(schema: Mapping[str, Any] | bool) -> Any:
    """The schema for the compiler. Raises RequestError for `false`, and for integers that it would round.

    `true` is a schema without a condition. A oneOf of objects that one of their required properties tells apart, as
    Pydantic writes unions with a discriminator, becomes an anyOf, which says the same and needs no look at the others.
    """
    if schema is False:
        raise RequestError("The JSON schema cannot be used: false is met by no text.")
    if isinstance(schema, bool):
        return {}
    for keyword, number in _numbers(schema):
        if abs(number) > _EXACT:
            raise RequestError(
                f"The JSON schema cannot be used: {keyword} has the integer {number}, of more than 53 bits.",
                "Leave it out, or let the value be a string.",
            )
    return _rewritten(schema, schema)


def _numbers(value: Any, keyword: str = "") -> Iterator[tuple[str, int]]:
    """The integers of keywords that are about numbers, with the keyword."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _numbers(each, key if key in _OF_NUMBERS else keyword if keyword in ("const", "enum") else "")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            yield from _numbers(each, keyword)
    elif isinstance(value, int) and keyword:
        yield keyword, value


def _rewritten(value: Any, root: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_rewritten(each, root) for each in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _rewritten(each, root) if key not in ("const", "enum") else each for key, each in value.items()}
    alternatives = value.get("oneOf")
    if isinstance(alternatives, list) and "anyOf" not in value and _told_apart(alternatives, root):
        found["anyOf"] = found.pop("oneOf")
    return found


def _resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """What a schema that is nothing but a reference within the document refers to; any other as it is."""
    if not isinstance(schema, Mapping) or set(schema) != {"$ref"} or not isinstance(schema["$ref"], str):
        return schema
    found: Any = root
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _told_apart(alternatives: list[Any], root: Mapping[str, Any]) -> bool:
    """Whether all are objects with a required property that has other constants in each."""
    tables = [_constants(_resolved(each, root)) for each in alternatives]
    if not tables:
        return False
    for name in tables[0]:
        values = [value for table in tables for value in table.get(name, ())]
        if all(name in table for table in tables) and len(set(values)) == len(values):
            return True
    return False


def _constants(schema: Any) -> dict[str, list[str]]:
    """For each required property that must be one of some strings, these."""
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        return {}
    required, properties = schema.get("required"), schema.get("properties")
    if not isinstance(required, list) or not isinstance(properties, Mapping):
        return {}
    found = {}
    for name, each in properties.items():
        if name in required and isinstance(each, Mapping):
            values = [each["const"]] if "const" in each else each.get("enum")
            if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
                found[name] = values
    return found
