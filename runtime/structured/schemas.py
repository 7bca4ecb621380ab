"""JSON schemas as the compiler follows them to the letter: what it would round is refused, and what it only knows in
other words is said in those."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from inflight.errors import RequestError

# Keywords whose numbers are part of the text, or bound it; the values of the first two are no schemas.
_OF_NUMBERS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
# Keywords that hold schemas by names of the author's own, and those that hold data and bind nothing.
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
_DATA = ("const", "enum", "default", "examples", "example", "required")
_MOST_ROUNDS = 20
# Up to here every integer is a number of 64 bits with a floating point, in which the compiler keeps them all.
_EXACT = 1 << 53


def json_options(schema: Any) -> dict[str, Any]:
    """How the compiler writes JSON of `schema`: with few blanks between its parts, and with no \\u in strings.

    By those a key that the schema names could be spelled in another way, and its value would escape the schema. A
    schema that names a character which has no other spelling keeps them.
    """
    # Without a bound a model that likes blanks never comes to an end.
    blanks = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}
    if "\\u" in json.dumps(schema, ensure_ascii=False):
        return blanks
    return {**blanks, "json_allowed_escapes": 'nrbtf\\"'}


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
    if (reference := _endless(schema)) is not None:
        raise RequestError(
            f"The JSON schema cannot be used: what {reference} refers to holds itself in all that it may be, so that no"
            " text of it comes to an end.",
            "Let the property that holds it be left out or null, or the list be empty.",
        )
    return _rewritten(schema, schema)


def _endless(schema: Mapping[str, Any]) -> str | None:
    """A reference to a schema without a finite value, where `schema` itself has none for that.

    What has one is found from below, as the least fixed point: first that which needs no reference, then that which
    needs what was found.
    """
    references = dict.fromkeys(_references(schema))
    ending = {each for each in references if not each.startswith("#")}
    # A chain is found in one round, in its order or against it; whatever takes many more is left to the compiler.
    for turn in range(_MOST_ROUNDS):
        before = len(ending)
        for each in list(references)[:: 1 if turn % 2 else -1]:
            if each not in ending and _ends(_resolved({"$ref": each}, schema), ending):
                ending.add(each)
        if len(ending) == before:
            return None if _ends(schema, ending) else next(each for each in references if each not in ending)
    return None


def _ends(schema: Any, ending: set[str]) -> bool:
    """Whether it has a finite value, where those references have one. What the compiler refuses by itself counts as if
    it had."""
    if not isinstance(schema, Mapping) or "const" in schema or "enum" in schema:
        return True
    if isinstance(schema.get("$ref"), str) and schema["$ref"] not in ending:
        return False
    if not all(_ends(each, ending) for each in _list(schema, "allOf")):
        return False
    for keyword in ("anyOf", "oneOf"):
        if (choices := _list(schema, keyword)) and not any(_ends(each, ending) for each in choices):
            return False
    types = schema.get("type", "any")
    nested = {"object": _held, "array": _least_items}
    return any(
        all(_ends(each, ending) for each in nested[kind](schema)) if kind in nested else True
        for kind in (types if isinstance(types, list) else [str(types)])
    )


def _held(schema: Mapping[str, Any]) -> list[Any]:
    """The schemas of the properties that an object must have."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return []
    return [properties[name] for name in _list(schema, "required") if isinstance(name, str) and name in properties]


def _least_items(schema: Mapping[str, Any]) -> list[Any]:
    """The schemas of the items that an array must have."""
    least, first = schema.get("minItems", 0), _list(schema, "prefixItems")
    if not isinstance(least, int):
        return []
    return [*first[:least], *([schema.get("items")] if least > len(first) else [])]


def _list(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    found = schema.get(keyword)
    return found if isinstance(found, list) else []


def _references(schema: Any) -> Iterator[str]:
    """Those in a schema, in their order."""
    if isinstance(schema, list):
        for each in schema:
            yield from _references(each)
    elif isinstance(schema, Mapping):
        for keyword, value in schema.items():
            if keyword == "$ref" and isinstance(value, str):
                yield value
            elif keyword in _BY_NAME and isinstance(value, Mapping):
                yield from _references(list(value.values()))
            elif keyword not in _DATA:
                yield from _references(value)


def _numbers(schema: Any) -> Iterator[tuple[str, int]]:
    """The integers of keywords that are about numbers, with the keyword."""
    if isinstance(schema, list):
        for each in schema:
            yield from _numbers(each)
    elif isinstance(schema, Mapping):
        for keyword, value in schema.items():
            if keyword in _OF_NUMBERS:
                yield from ((keyword, number) for number in _integers(value))
            elif keyword in _BY_NAME and isinstance(value, Mapping):
                yield from _numbers(list(value.values()))
            elif keyword not in _DATA:
                yield from _numbers(value)


def _integers(value: Any) -> Iterator[int]:
    """All that there are in a value of JSON."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _integers(each)
    elif isinstance(value, int):
        yield value


def _rewritten(value: Any, root: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_rewritten(each, root) for each in value]
    if not isinstance(value, Mapping):
        return value
    found = {}
    for keyword, each in value.items():
        if keyword in _BY_NAME and isinstance(each, Mapping):
            found[keyword] = {name: _rewritten(own, root) for name, own in each.items()}
        else:
            found[keyword] = each if keyword in _DATA else _rewritten(each, root)
    alternatives = value.get("oneOf")
    if isinstance(alternatives, list) and "anyOf" not in value and _told_apart(alternatives, root):
        found["anyOf"] = found.pop("oneOf")
    return found


def _resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """What a schema that is nothing but a reference within the document refers to; any other as it is."""
    if not isinstance(schema, Mapping) or set(schema) != {"$ref"} or not isinstance(schema["$ref"], str):
        return schema
    found: Any = root
    if schema["$ref"] == "#":
        return root
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
