"""gpt-oss thinks before a call that it has to make, in its own channels."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import AddedToken

from inflight.runtime.executors.null.executor import null_manifest
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.outputs import StructuredOutputs
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.runtime.text.parsers.answer import Chain
from inflight.runtime.text.parsers.call_grammar import calls_grammar
from inflight.runtime.text.parsers.reasoning.families import FAMILIES
from inflight.runtime.text.parsers.reasoning.parser import Beginning
from inflight.runtime.text.parsers.tool_format import Tool
from inflight.runtime.text.parsers.tools.registry import find_tool_format
from inflight.runtime.text.tokenizer import Tokenizer
from tests.models.tiny_tokenizers import KINDS
from tests.unit.runtime.structured.test_reasoning_grammar import walk
from tests.unit.text.parsers.answers import cuts, read

pytestmark = pytest.mark.unit


def test_an_analysis_may_come_before_a_forced_call(rng: np.random.Generator) -> None:
    form, family = find_tool_format("openai"), FAMILIES["gpt_oss"]
    backend = KINDS["byte_level"]()
    backend.add_special_tokens([AddedToken(marker, normalized=False) for marker in form.markers])
    tokenizer = Tokenizer(backend)
    compiler = GrammarCompiler(lambda: tokenizer, null_manifest(vocab_size=tokenizer.vocab_size))
    days = {"type": "integer", "minimum": 0, "maximum": 9}
    schema = {"type": "object", "properties": {"days": days}, "required": ["days"], "additionalProperties": False}
    tools = [Tool("forecast", schema)]
    outputs = StructuredOutputs(grammar=calls_grammar(form, tools, 1, tokenizer))
    assert family.before_calls is not None
    for _ in range(40):
        budget = int(rng.integers(1, 9))
        grammar = compiler.compile(outputs, ReasoningFirst(*family.before_calls, budget))
        thinks = bool(rng.integers(2))
        begun = tokenizer.encode(family.before_calls[0], False) if thinks else []
        for token in begun:
            mask = grammar.mask()
            assert mask is not None and mask[token >> 3] >> (token & 7) & 1
            grammar.accept(token)
        text = tokenizer.decode(begun, False) + walk(grammar, tokenizer, rng, 3000, b"<|")[0]
        chain = Chain(family.parser(Beginning.OPEN), form.parser(tools))
        reasoning, content, calls = read(chain, cuts(rng, text))
        assert not content and [name for name, _ in calls] == ["forecast"], text
        assert 0 <= json.loads(calls[0][1])["days"] <= 9
        assert bool(reasoning) is thinks, text
