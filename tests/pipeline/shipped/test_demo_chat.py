"""LLM.chat over the demonstration model: its calls, results and JSON are right, and those of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.runtime import LLM, SamplingParams
from tests.engines.demo_engine import DEMO_MODEL, random_skills

pytestmark = pytest.mark.pipeline

GREEDY = SamplingParams(temperature=0, max_tokens=128)


@pytest.fixture(scope="module")
def llm(demo_engine: Path) -> Iterator[LLM]:
    with LLM(demo_engine) as llm:
        yield llm


def test_tokens_are_those_that_transformers_wrote(llm: LLM) -> None:
    rows = json.loads((DEMO_MODEL / "skills.json").read_text())
    ends = llm.manifest.generation.end_token_ids
    for tools in (True, False):
        chosen = [row for row in rows if bool(row["tools"]) == tools]
        outputs = llm.chat([row["messages"] for row in chosen], GREEDY, tools=chosen[0]["tools"])
        for row, output in zip(chosen, outputs, strict=True):
            assert [token for token in output.outputs[0].token_ids if token not in ends] == row["token_ids"]
            assert output.outputs[0].text == row["answer"]


@pytest.mark.parametrize("kind", ["tool_signature", "tool_find"])
def test_a_call_is_parsed_and_its_result_answered(llm: LLM, rng: np.random.Generator, kind: str) -> None:
    (row,) = random_skills(rng, kind, 1)
    (output,) = llm.chat(row["messages"], GREEDY, tools=row["tools"])
    (call,) = output.outputs[0].tool_calls
    assert output.outputs[0].content is None
    assert row["reference"] == f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n</tool_call>'
    (told,) = random_skills(rng, "tool_result", 1)
    (output,) = llm.chat(told["messages"], GREEDY, tools=told["tools"])
    assert (output.outputs[0].content, output.outputs[0].tool_calls) == (told["reference"], ())


def test_a_schema_that_the_messages_do_not_speak_of_gets_the_right_value(llm: LLM, rng: np.random.Generator) -> None:
    rows = json.loads((DEMO_MODEL / "prompts.json").read_text())
    known = [row for row in rows if row["kind"] == "describe" and row["answer"] == row["reference"]][:20]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"description": {"type": "string"}},
        "required": ["description"],
        "additionalProperties": False,
    }
    params = SamplingParams(temperature=0, max_tokens=128, structured_outputs={"json": schema})  # type: ignore[arg-type]
    outputs = llm.chat([[{"role": "user", "content": row["question"]}] for row in known], params)
    found = [json.loads(output.outputs[0].text)["description"] for output in outputs]
    right = sum(text == row["reference"] for text, row in zip(found, known, strict=True))
    assert right >= 0.8 * len(known), found
