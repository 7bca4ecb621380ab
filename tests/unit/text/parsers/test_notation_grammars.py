"""Grammars of calls in each family's notation: whatever they let through is calls that the parser reads, and valid."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from msgspec.structs import replace
from tokenizers import AddedToken

from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.text.parsers.answer import Chain
from inflight.runtime.text.parsers.call_grammar import calls_grammar
from inflight.runtime.text.parsers.reasoning.families import FAMILIES
from inflight.runtime.text.parsers.reasoning.parser import Beginning
from inflight.runtime.text.parsers.tools.registry import find_tool_format
from inflight.runtime.text.parsers.tools.tool_format import Tool
from inflight.runtime.text.tokenizer import Tokenizer, load_tokenizer
from tests.engines.random_schemas import random_schema
from tests.engines.serving_engines import write_null_engine
from tests.unit.text.parsers.answers import cuts, read
from tests.unit.text.parsers.test_further_tool_parsers import WRITERS

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", params=["text", "tokens"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, GrammarCompiler]:
    """One to which the markers are text, and one to which they are special tokens."""
    engine = write_null_engine(tmp_path_factory.mktemp("null") / "engine")
    found = load_tokenizer(engine / "tokenizer")
    if request.param == "tokens":
        markers = {marker for name in WRITERS for marker in find_tool_format(name).markers}
        found.backend.add_special_tokens([AddedToken(marker) for marker in sorted(markers)])
        found = Tokenizer(found.backend)
    manifest = read_engine_directory(engine).manifest
    manifest = replace(manifest, model=replace(manifest.model, vocab_size=found.vocab_size))
    return found, GrammarCompiler(lambda: found, manifest)


def schema_of(rng: np.random.Generator) -> dict[str, Any]:
    """Of arguments: plain ones, or any schema of an object."""
    if rng.random() < 0.4:
        inner = random_schema(rng)
        return {"type": "object", "properties": {"any": inner}, "required": ["any"], "additionalProperties": False}
    kinds: list[dict[str, Any]] = [
        {"type": "string"},
        {"type": "string", "enum": ["left", "right side"]},
        {"type": "integer", "minimum": 0, "maximum": 99},
        {"type": "boolean"},
        {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0}, "maxItems": 2},
    ]
    keys = [f"key{number}" for number in range(rng.integers(0, 4))]
    properties = {key: kinds[rng.integers(len(kinds))] for key in keys}
    required = [key for key in keys if rng.random() < 0.5]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@pytest.mark.parametrize("name", ["hermes", "llama3_json", "qwen3_coder", *WRITERS])
def test_a_grammar_gives_calls_that_the_parser_reads(
    name: str, tokenizer: tuple[Tokenizer, GrammarCompiler], rng: np.random.Generator
) -> None:
    form, (words, compiler) = find_tool_format(name), tokenizer
    for _ in range(8):
        tools = [Tool(f"tool_{number}", schema_of(rng)) for number in range(rng.integers(1, 3))]
        most = int(rng.integers(1, 4))
        text = calls_grammar(form, tools, most, words)
        grammar = compiler.compile(StructuredOutputs(grammar=text))
        ids: list[int] = []
        while not grammar.ended and len(ids) < 1500:
            mask = grammar.mask()
            assert mask is not None
            possible = [token for token in range(words.vocab_size) if mask[token >> 3] >> (token & 7) & 1]
            # What closes strings and brackets, where it may: a random text would go on for long.
            closers = [
                token for token in possible if words.token_bytes(token)[:1] in b'"]}<' or words.special_piece(token)
            ]
            ids.append(int(rng.choice(closers if closers and rng.random() < 0.3 else possible)))
            grammar.accept(ids[-1])
            assert grammar.failure is None, text
        if not grammar.ended:
            continue
        written = words.decode(ids, skip_special_tokens=False)
        parser = form.parser(tools)
        if name == "openai":
            parser = Chain(FAMILIES["gpt_oss"].parser(Beginning.OPEN), parser)
        _, content, calls = read(parser, cuts(rng, written))
        assert content == "" and 1 <= len(calls) <= most, written
        for called, arguments in calls:
            tool = next(each for each in tools if each.name == called)
            jsonschema.validate(json.loads(arguments), tool.parameters, jsonschema.Draft202012Validator)
