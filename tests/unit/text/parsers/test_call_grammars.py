"""Forced calls: whatever a form's grammar lets through, its parser finds calls in it that are of the schemas."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
import tokenizers

from inflight.errors import RequestError
from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.outputs import MAX_CHARACTERS, StructuredOutputs
from inflight.runtime.text.chat.tool_schema import as_object_schema
from inflight.runtime.text.parsers.call_grammar import calls_grammar, calls_or_content_grammar
from inflight.runtime.text.parsers.tool_format import Tool, ToolFormat
from inflight.runtime.text.parsers.tools.registry import TOOL_FORMATS, find_tool_format
from inflight.runtime.text.tokenizer import Tokenizer
from tests.engines.random_schemas import random_schema
from tests.models.tiny_tokenizers import byte_level
from tests.unit.text.parsers.answers import read, values

pytestmark = pytest.mark.unit

# Far beyond what the grammars of these tools need, blanks included.
MOST_TOKENS = 6000
CHOICES = {
    "type": "object",
    "properties": {
        "unit": {"type": "string", "enum": ["celsius", "degrees of Fahrenheit"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 14},
        "exact": {"type": "boolean"},
        "places": {"type": "array", "items": {"enum": [1, "two"]}, "maxItems": 2},
    },
    "required": ["unit", "days"],
}


def vocabulary(form: ToolFormat, markers_are_special: bool) -> Tokenizer:
    backend = byte_level()
    if markers_are_special:
        backend.add_special_tokens([tokenizers.AddedToken(each, special=True) for each in form.markers])
    return Tokenizer(backend)


def random_text(tokenizer: Tokenizer, grammar: str, rng: np.random.Generator) -> str | None:
    """A text that the grammar lets through, its special tokens shown; None: it comes to no end."""
    manifest = null_manifest(vocab_size=tokenizer.vocab_size)
    place = GrammarCompiler(lambda: tokenizer, manifest).compile(StructuredOutputs(grammar=grammar))
    ids: list[int] = []
    while len(ids) < MOST_TOKENS:
        bits = np.unpackbits(np.frombuffer(place.mask() or b"", dtype=np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[: tokenizer.vocab_size])
        if place.ended or not len(allowed):
            assert place.failure is None
            return tokenizer.decode(ids, skip_special_tokens=False)
        ids.append(int(rng.choice(allowed)))
        place.accept(ids[-1])
    return None


def check(form: ToolFormat, text: str, tools: list[Tool], most: int) -> None:
    _, content, calls = read(form.parser(tools), iter([text]))
    assert not content and 1 <= len(calls) <= most, text
    schemas: dict[str, Any] = {tool.name: tool.parameters for tool in tools}
    for name, arguments in values(calls):
        jsonschema.validate(arguments, schemas[name], jsonschema.Draft202012Validator)


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("name", [name for name in TOOL_FORMATS.names() if find_tool_format(name).name == name])
def test_what_a_grammar_lets_through_is_calls(name: str, special: bool, rng: np.random.Generator) -> None:
    form = find_tool_format(name)
    tokenizer = vocabulary(form, special)
    tools = [Tool(f"tool_{number}", as_object_schema(random_schema(rng))) for number in range(2)]
    tools += [Tool("choices", as_object_schema(CHOICES)), Tool("nothing", as_object_schema({}))]
    for most in (1, 2):
        text = random_text(tokenizer, calls_grammar(form, tools, most, tokenizer), rng)
        if text is not None:
            check(form, text, tools, most)


@pytest.mark.parametrize("name", [name for name in TOOL_FORMATS.names() if find_tool_format(name).name == name])
def test_names_may_have_any_character_that_is_allowed_in_them(name: str, rng: np.random.Generator) -> None:
    form = find_tool_format(name)
    tokenizer = vocabulary(form, False)
    keys = ["a:b", "a,b", "$c", "d.e", "f g", "-h", "\x7f", "h\u00e9", "\U0001f98a"]
    values = {"type": "string", "enum": ["fox, dog", "x:y", "\x7f", "\U0001f98a"]}
    for tool_name in ("-f", ".g", "_h-1.2", "9"):
        properties = dict.fromkeys(rng.permutation(keys)[:2].tolist(), values)
        tools = [Tool(tool_name, as_object_schema({"properties": properties, "required": list(properties)}))]
        text = random_text(tokenizer, calls_grammar(form, tools, 2, tokenizer), rng)
        if text is not None:
            check(form, text, tools, 2)


@pytest.mark.parametrize("sizes", [[100, MAX_CHARACTERS + 1], [MAX_CHARACTERS // 2 - 100, MAX_CHARACTERS // 2]])
def test_a_tool_whose_schema_is_too_long_is_named(sizes: list[int]) -> None:
    form = find_tool_format("hermes")
    tools = [Tool(f"f{size}", {"type": "object", "description": "d" * size}) for size in sizes]
    with pytest.raises(RequestError, match=f"f{sizes[1]}"):
        calls_grammar(form, tools, 1, vocabulary(form, False))


@pytest.mark.parametrize("name", ["qwen3_coder", "glm45"])
def test_json_of_an_argument_may_hold_the_marks_that_end_it(name: str, rng: np.random.Generator) -> None:
    form = find_tool_format(name)
    tokenizer = vocabulary(form, False)
    marks = ["</parameter>", "</arg_value>", "</function>", "</tool_call>", "\n", "\n</parameter>\n", '"', "\\", "x"]
    texts = ["".join(rng.choice(marks, size=rng.integers(1, 5))) for _ in range(8)]
    items = {"type": "array", "items": {"enum": texts}, "minItems": 3, "maxItems": 3}
    properties = {"a": items, "b": {"type": "integer", "minimum": 0, "maximum": 9}}
    tool = Tool("f", as_object_schema({"properties": properties, "required": ["a", "b"]}))
    text = random_text(tokenizer, calls_grammar(form, [tool], 1, tokenizer), rng)
    assert text is not None and "<tool_call>{" not in text
    check(form, text, [tool], 1)


@pytest.mark.parametrize("regex", ["a/b", r"a\/b", r"\\/b", "[/]b", "a\nb", "a|b/"])
def test_content_of_an_expression_stands_beside_calls(regex: str, rng: np.random.Generator) -> None:
    form = find_tool_format("hermes")
    tokenizer = vocabulary(form, False)
    grammar = calls_or_content_grammar(
        form, [Tool("nothing", as_object_schema({}))], 1, tokenizer, StructuredOutputs(regex=regex)
    )
    texts = [random_text(tokenizer, grammar, rng) or "" for _ in range(6)]
    assert all(text.startswith("<tool_call>") or re.fullmatch(regex, text) for text in texts), texts


def test_content_of_a_schema_stands_beside_calls(rng: np.random.Generator) -> None:
    form = find_tool_format("hermes")
    tokenizer = vocabulary(form, False)
    tools = [Tool("nothing", as_object_schema({}))]
    shape = random_schema(rng)
    for _ in range(4):
        grammar = calls_or_content_grammar(form, tools, 1, tokenizer, StructuredOutputs(json=shape))
        text = random_text(tokenizer, grammar, rng)
        if text is not None and text.startswith("<tool_call>"):
            check(form, text, tools, 1)
        elif text is not None:
            jsonschema.validate(json.loads(text), shape, jsonschema.Draft202012Validator)
