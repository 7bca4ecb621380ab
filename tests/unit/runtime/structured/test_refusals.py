"""Refusals of structured outputs say where: a place of the schema or tag, a line of the grammar, a character."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime import StructuredOutputs
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.engines.random_schemas import random_schema
from tests.engines.serving_engines import write_null_engine

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> GrammarCompiler:
    engine = write_null_engine(tmp_path_factory.mktemp("null") / "engine")
    tokenizer = load_tokenizer(engine / Path("tokenizer"))
    return GrammarCompiler(lambda: tokenizer, read_engine_directory(engine).manifest)


def words(compiler: GrammarCompiler, **outputs: Any) -> str:
    with pytest.raises(RequestError) as refused:
        compiler.compile(StructuredOutputs(**outputs))
    return refused.value.message


def places(schema: Any, pointer: str = "") -> list[str]:
    """The pointers of all schemas without which an object of `schema` could not be."""
    found = [pointer]
    for name, each in schema.get("properties", {}).items():
        if name in schema.get("required", ()):
            found += places(each, f"{pointer}/properties/{name}")
    if schema.get("minItems", 0) and isinstance(schema.get("items"), dict):
        found += places(schema["items"], f"{pointer}/items")
    return found


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"type": "verse"}, "Invalid type: verse"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "is greater than"),
    ({"type": "string", "pattern": "x(a"}, "unclosed group at character 2 of x(a"),
    ({"not": {}}, "not"),
    ({"type": "string", "minLength": "3"}, "minLength"),
]


@pytest.mark.parametrize(("wrong", "told"), WRONG)
def test_a_part_of_a_schema_is_named(
    compiler: GrammarCompiler, wrong: dict[str, Any], told: str, rng: np.random.Generator
) -> None:
    for _ in range(4):
        schema = random_schema(rng)
        pointer = str(rng.choice(places(schema)[1:] or [""]))
        broken: Any = {"": copy.deepcopy(schema)}
        node, path = broken, pointer.split("/")
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = wrong
        message = words(compiler, json=broken[""])
        expected = f"The JSON schema cannot be used: {pointer}{': ' if pointer else ''}"
        assert message.startswith(expected) and told in message, (message, broken)


def test_a_part_of_a_structural_tag_is_named(compiler: GrammarCompiler) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "verse"}}}
    elements = [{"type": "const_string", "value": "a"}, {"type": "json_schema", "json_schema": schema}]
    message = words(compiler, structural_tag={"format": {"type": "sequence", "elements": elements}})
    assert "format.elements.1.json_schema/properties/a: Invalid type: verse" in message
    message = words(
        compiler, structural_tag={"format": {"type": "star", "content": {"type": "regex", "pattern": "b["}}}
    )
    assert "format.content.pattern: unclosed character class at character 2 of b[" in message
    structures = [{"begin": "<a>", "schema": {"enum": []}, "end": "</a>"}]
    message = words(compiler, structural_tag={"structures": structures, "triggers": ["<a>"]})
    assert "structures.0.schema: " in message


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({"regex": "ab(c[a-"}, "cannot be used: unclosed character class at character 5 of ab(c[a-"),
        ({"regex": "x\n(?=a)"}, "look-around"),
        ({"grammar": 'start: a\na: "x" b\n'}, 'line 2, column 4: unknown name: "b"'),
        ({"grammar": 'start: "a" (\n "b"'}, "line 1, column 13: Expected token"),
        ({"grammar": "start: a\na: /x(/"}, "line 2, column 4: unclosed group at character 2 of x("),
        (
            {"grammar": 'start: a b\na: %json {"type": "null"}\nb: "x" %json {"title": "It", "items": {"not": {}}}'},
            "the JSON schema 'It', /items: ",
        ),
        ({"grammar": 'start: %json {"enum": []}'}, 'the JSON schema {"enum": []}: '),
        ({"grammar": 'root ::= "a" bar'}, "Rule 'bar' not found"),
    ],
)
def test_a_line_and_a_character_are_named(compiler: GrammarCompiler, outputs: dict[str, Any], told: str) -> None:
    message = words(compiler, **outputs)
    assert told in message and " | " not in message and not re.search(r"\^ ?$", message)


def shape(rng: np.random.Generator, names: list[str], depth: int) -> dict[str, Any]:
    """A schema of references to `names` and a leaf, in any arrangement."""
    kinds = ["leaf", "ref", "ref"] if depth == 0 else ["ref", "object", "object", "array", "anyOf", "allOf", "types"]
    kind = str(rng.choice(kinds))
    inner = [shape(rng, names, depth - 1) for _ in range(rng.integers(1, 3))] if depth else []
    made: dict[str, dict[str, Any]] = {
        "leaf": {"type": "boolean"},
        "ref": {"$ref": f"#/$defs/{rng.choice(names)}"},
        "object": {
            "type": "object",
            "properties": {f"p{place}": each for place, each in enumerate(inner)},
            "required": [f"p{place}" for place in range(len(inner)) if rng.random() < 0.7],
        },
        "array": {"type": "array", "items": inner[0] if inner else {}, "minItems": int(rng.integers(2))},
        "anyOf": {"anyOf": inner},
        "allOf": {"allOf": inner[:1]},
        "types": {"type": ["object", str(rng.choice(["array", "null"]))], "properties": {"p": {}}, "required": ["p"]},
    }
    return made[kind]


def has_value(schema: Any, root: dict[str, Any], depth: int) -> bool:
    """Whether there is a value of so few levels."""
    if depth == 0:
        return False
    if "$ref" in schema:
        return has_value(root["$defs"][schema["$ref"].split("/")[-1]], root, depth - 1)
    if "anyOf" in schema:
        return any(has_value(each, root, depth - 1) for each in schema["anyOf"])
    if "allOf" in schema:
        return all(has_value(each, root, depth - 1) for each in schema["allOf"])
    if schema.get("type") == "object":
        return all(has_value(schema["properties"][name], root, depth - 1) for name in schema["required"])
    return not schema.get("minItems") or has_value(schema["items"], root, depth - 1)


def test_a_schema_without_a_finite_text_is_refused_and_no_other(
    compiler: GrammarCompiler, rng: np.random.Generator
) -> None:
    names, found = list("abcd"), set()
    for _ in range(80):
        root = {"$ref": "#/$defs/a", "$defs": {name: shape(rng, names, 2) for name in names}}
        # Each definition is within another once at most before one comes again: 4 of at most 4 levels.
        exists = has_value(root, root, 20)
        try:
            compiler.compile(StructuredOutputs(json=root))
            refused = False
        except RequestError as error:
            refused = "no text of it comes to an end" in " ".join(error.message.split())
            # References that go nowhere but to each other are refused by the compiler in its own words.
            assert refused or not exists or "cannot be used" in error.message
        assert refused is not exists, json.dumps(root)
        found.add(refused)
    assert found == {True, False}


def test_a_schema_that_holds_itself_as_a_whole(compiler: GrammarCompiler) -> None:
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert "what # refers to holds itself" in words(compiler, json=node)
    compiler.compile(StructuredOutputs(json={**node, "required": []}))
    node["properties"]["next"] = {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
    compiler.compile(StructuredOutputs(json=node))
