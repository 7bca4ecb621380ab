"""JSON schemas that are drawn at random, whose texts come to an end."""

from __future__ import annotations

from typing import Any

import numpy as np

Schema = dict[str, Any]


def random_schema(rng: np.random.Generator) -> Schema:
    """An object of a few properties, nested at most three deep."""
    return _object(rng, 2)


def _value(rng: np.random.Generator, depth: int) -> Schema:
    kinds = [_string, _integer, _number, _enum, _simple]
    if depth:
        kinds += [_object, _array, _any_of]
    return kinds[rng.integers(len(kinds))](rng, depth - 1)


def _object(rng: np.random.Generator, depth: int) -> Schema:
    names = [f"{'abcdef'[number]}{rng.integers(100)}" for number in range(rng.integers(1, 5))]
    return {
        "type": "object",
        "properties": {name: _value(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }


def _array(rng: np.random.Generator, depth: int) -> Schema:
    least = int(rng.integers(3))
    return {"type": "array", "items": _value(rng, depth), "minItems": least, "maxItems": least + int(rng.integers(3))}


def _any_of(rng: np.random.Generator, depth: int) -> Schema:
    return {"anyOf": [_value(rng, depth) for _ in range(rng.integers(1, 4))]}


def _string(rng: np.random.Generator, depth: int) -> Schema:
    if rng.random() < 0.3:
        return {"type": "string", "pattern": "^[a-z]{1,4}-[0-9]{2}$"}
    least = int(rng.integers(4))
    return {"type": "string", "minLength": least, "maxLength": least + int(rng.integers(6))}


def _integer(rng: np.random.Generator, depth: int) -> Schema:
    least = int(rng.integers(-1000, 1000))
    return {"type": "integer", "minimum": least, "maximum": least + int(rng.integers(500))}


def _number(rng: np.random.Generator, depth: int) -> Schema:
    return {"type": "number", "minimum": -3.5, "exclusiveMaximum": float(rng.integers(5, 50))}


def _enum(rng: np.random.Generator, depth: int) -> Schema:
    values: list[Any] = ["on", "off", 'a "quoted" word', "ünïcode", 17, None, True, [1, 2]]
    return {"enum": [values[place] for place in rng.permutation(len(values))[: rng.integers(1, 5)]]}


def _simple(rng: np.random.Generator, depth: int) -> Schema:
    return {"type": str(rng.choice(["boolean", "null"]))}
