"""JSON schemas of the arguments of functions: what is wrong with one at first sight, and as an object's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_ONE = ("items", "additionalProperties", "not")
# Keywords that have a say in which further properties there may be.
_OPEN = {"additionalProperties", "unevaluatedProperties", "patternProperties", "propertyNames", "$ref", "not", "if"}
_OPEN |= {"anyOf", "oneOf", "allOf", "minProperties", "dependentSchemas"}

Problem = tuple[str, str]


def schema_problem(parameters: Mapping[str, Any]) -> Problem | None:
    """Where in the schema, as `.properties.city`, and what is wrong; None: nothing that can be seen without compiling
    it, which is done where a call is forced."""
    if parameters.get("type", "object") != "object":
        return ".type", "the parameters of a function are an object, of type 'object'"
    return next(_problems("", parameters, 100), None)


def as_object_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A schema for which arguments are an object, of the properties that it names unless it says or needs others: a
    function takes no others."""
    schema: dict[str, Any] = {"type": "object", **parameters}
    properties = schema.get("properties", {})
    if _OPEN & set(schema) or set(schema.get("required", ())) - set(properties):
        return schema
    return {**schema, "properties": properties, "additionalProperties": False}


def _problems(place: str, schema: Any, depth: int) -> Iterator[Problem]:
    if depth == 0:
        yield place, "the schema is nested too deeply"
        return
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield place, f"a schema is an object, not {_kind(schema)}"
        return
    kinds = schema.get("type", [])
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _TYPES:
            yield f"{place}.type", f"{kind!r} is none of the types {', '.join(_TYPES)}"
    required = schema.get("required", [])
    # In draft 3 a property says of itself whether it is required.
    if not (place and isinstance(required, bool)) and not _are_names(required):
        yield f"{place}.required", "required is a list of names"
    yield from _problems_within(place, schema, depth - 1)


def _problems_within(place: str, schema: Mapping[str, Any], depth: int) -> Iterator[Problem]:
    for key in _BY_NAME:
        if key in schema and not isinstance(schema[key], Mapping):
            yield f"{place}.{key}", f"{key} is an object, not {_kind(schema[key])}"
        elif key in schema:
            for name, each in schema[key].items():
                yield from _problems(f"{place}.{key}.{name}", each, depth)
    for key in _OF_SCHEMAS:
        if key in schema and not isinstance(schema[key], list):
            yield f"{place}.{key}", f"{key} is a list, not {_kind(schema[key])}"
        elif key in schema:
            for index, each in enumerate(schema[key]):
                yield from _problems(f"{place}.{key}.{index}", each, depth)
    for key in _ONE:
        # Before prefixItems, items was a list for tuples.
        for each in schema[key] if isinstance(schema.get(key), list) else [schema[key]] if key in schema else []:
            yield from _problems(f"{place}.{key}", each, depth)
    if "enum" in schema and not isinstance(schema["enum"], list):
        yield f"{place}.enum", f"enum is a list, not {_kind(schema['enum'])}"


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")
