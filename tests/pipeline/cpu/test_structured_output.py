"""Structured output of a compiled engine whose weights are random: nothing but the masks makes its texts conform."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.errors import RequestError
from inflight.runtime import LLM, CompletionOutput, SamplingParams, SchedulerConfig
from tests.engines.random_schemas import random_schema
from tests.models.tiny_tokenizers import random_text
from tests.paths import SCRIPTS

pytestmark = pytest.mark.pipeline

ROOM = 400
# A character has up to four bytes, and each may be a token; a token may stand in front.
PROMPT_CHARACTERS = (512 - ROOM - 1) // 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> Path:
    place = tmp_path_factory.mktemp("structured")
    convert_model(embedded_model, place / "checkpoint", ConvertOptions(dtype="float32"))
    return place / "checkpoint"


@pytest.fixture(scope="module", params=["cpu", "reference"])
def llm(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[LLM]:
    engine = checkpoint.parent / request.param
    build_engine(checkpoint, engine, make_recipe(request.param, max_batch_size=8, max_seq_len=512))
    with LLM(engine) as llm:
        yield llm


def params(rng: np.random.Generator, outputs: dict[str, Any], **more: Any) -> SamplingParams:
    """Sampled, so that a model of random weights says something else at each token."""
    values = {"temperature": 1.0, "max_tokens": ROOM, "seed": int(rng.integers(1 << 62))} | more
    return SamplingParams(structured_outputs=outputs, **values)  # type: ignore[arg-type]


def test_every_text_is_valid_json_of_its_schema(llm: LLM, rng: np.random.Generator) -> None:
    schemas = [random_schema(rng) for _ in range(12 if llm.manifest.target == "cpu" else 4)]
    prompts = [random_text(rng)[:PROMPT_CHARACTERS] for _ in schemas]
    outputs = llm.generate(prompts, [params(rng, {"json": schema}) for schema in schemas])
    for schema, output in zip(schemas, outputs, strict=True):
        _check_json(schema, output.outputs[0])
    assert sum(output.outputs[0].finish_reason == "stop" for output in outputs) > len(outputs) / 2


@pytest.mark.slow
def test_two_hundred_schemas_are_met(checkpoint: Path, rng: np.random.Generator) -> None:
    """Those of the Pydantic models in the openai package, of real interfaces, and as many drawn ones."""
    sys.path.append(str(SCRIPTS))
    from compare.offline.structured import measure_validity, pydantic_schemas

    schemas = pydantic_schemas(100) | {f"drawn {number}": random_schema(rng) for number in range(100)}
    assert len(schemas) == 200
    build_engine(checkpoint, checkpoint.parent / "wide", make_recipe("cpu", max_batch_size=32, max_seq_len=1024))
    with LLM(checkpoint.parent / "wide") as llm:
        found = measure_validity(llm, schemas, 900)
    assert sum(found.values()) == 200 and found["refused"] <= 2
    assert found["valid"] > 100, found


def _check_json(schema: dict[str, Any], output: CompletionOutput) -> None:
    if output.finish_reason == "length":
        return  # Cut off, and said to be.
    assert output.finish_reason == "stop"
    jsonschema.validate(json.loads(output.text), schema, jsonschema.Draft202012Validator)


def test_a_text_matches_its_expression_choice_or_grammar(llm: LLM, rng: np.random.Generator) -> None:
    choices = ["red", "green, dark", "blüe", "red and green"]
    sums = 'root ::= term ("+" term)*\nterm ::= [0-9] [0-9]?'
    lark = 'start: "<" WORD ("," WORD)~1..3 ">"\nWORD: /[a-f]{2,5}/'
    asked: list[tuple[dict[str, Any], str]] = [
        ({"regex": "([0-9]{3}-){2}[0-9]{4}"}, "([0-9]{3}-){2}[0-9]{4}"),
        ({"regex": "[äöü]{3,9}!"}, "[äöü]{3,9}!"),
        ({"choice": choices}, "|".join(map(re.escape, choices))),
        ({"grammar": sums}, r"[0-9]{1,2}(\+[0-9]{1,2})*"),
        ({"grammar": lark}, r"<[a-f]{2,5}(,[a-f]{2,5}){1,3}>"),
    ]
    every = [params(rng, outputs, n=3) for outputs, _ in asked]
    for (outputs, expression), answer in zip(asked, llm.generate(["Say"] * len(asked), every), strict=True):
        for each in answer.outputs:
            assert each.finish_reason == "length" or re.fullmatch(expression, each.text), (outputs, each)
    assert {each.finish_reason for each in answer.outputs} == {"stop"}


def test_any_json_object_is_one(llm: LLM, rng: np.random.Generator) -> None:
    (output,) = llm.generate(["Say"], params(rng, {"json_object": True}))
    assert output.outputs[0].text.startswith("{")
    if output.outputs[0].finish_reason == "stop":
        assert isinstance(json.loads(output.outputs[0].text), dict)


def test_rows_with_masks_and_rows_without_do_not_see_each_other(checkpoint: Path, rng: np.random.Generator) -> None:
    engine = checkpoint.parent / "cpu"
    if not engine.exists():
        build_engine(checkpoint, engine, make_recipe("cpu", max_batch_size=8, max_seq_len=512))
    prompts = [random_text(rng)[:PROMPT_CHARACTERS] for _ in range(6)]
    each = [
        params(rng, {"json": random_schema(rng)}, max_tokens=60),
        params(rng, {"json": random_schema(rng)}, max_tokens=60, logprobs=3, presence_penalty=0.5),
        params(rng, {"regex": "[a-z ]{20,80}"}, max_tokens=60, top_k=40, top_p=0.9),
        params(rng, {"choice": ["one", "two", "three"]}, min_tokens=9, temperature=0.0),
        SamplingParams(temperature=0.8, seed=3, max_tokens=60),
        SamplingParams(temperature=0.0, max_tokens=60, repetition_penalty=1.2),
    ]
    with LLM(engine) as llm:
        alone = [llm.generate(prompt, one)[0].outputs[0].token_ids for prompt, one in zip(prompts, each, strict=True)]
    scheduler = SchedulerConfig(max_num_tokens=8)
    with LLM(engine, scheduler=scheduler) as llm:
        together = [answer.outputs[0].token_ids for answer in llm.generate(prompts, each)]
    assert alone == together


def test_forced_tokens_that_are_not_sampled_are_those_that_would_be(llm: LLM, rng: np.random.Generator) -> None:
    """Who asks for log probabilities has every token sampled; the others get forced tokens in one chunk."""
    count = 12 if llm.manifest.target == "cpu" else 3
    prompts = [random_text(rng)[:PROMPT_CHARACTERS] for _ in range(count)]
    outputs: list[dict[str, Any]] = [{"json": random_schema(rng)} for _ in prompts[:-1]]
    outputs.append({"regex": "(the quick brown fox jumps over the lazy dog|never, ){2}[a-z]{1,5}"})
    short = int(rng.integers(1, 30))
    asked = [params(rng, each, max_tokens=int(rng.choice([ROOM, short])), presence_penalty=0.3) for each in outputs]
    before = llm.stats().iterations
    jumped = llm.generate(prompts, asked)
    between = llm.stats().iterations
    sampled = llm.generate(prompts, [replace(each, logprobs=0) for each in asked])
    for one, other in zip(jumped, sampled, strict=True):
        assert one.outputs[0].token_ids == other.outputs[0].token_ids
        assert one.outputs[0].text == other.outputs[0].text
        assert one.outputs[0].finish_reason == other.outputs[0].finish_reason
    assert between - before <= llm.stats().iterations - between


def test_a_sentence_without_a_choice_takes_two_steps(llm: LLM) -> None:
    """The first token is sampled, from a mask of one, and the rest is taken with it."""
    sentence = "the quick brown fox jumps over the lazy dog"
    before = llm.stats()
    (output,) = llm.generate(["Say"], SamplingParams(structured_outputs={"choice": [sentence]}, max_tokens=99))  # type: ignore[arg-type]
    after = llm.stats()
    assert output.outputs[0].text == sentence
    assert after.iterations - before.iterations < len(output.outputs[0].token_ids) / 2
    assert after.output_tokens - before.output_tokens == len(output.outputs[0].token_ids)


def test_a_text_that_is_whole_ends_whatever_min_tokens_says(llm: LLM) -> None:
    asked = SamplingParams(structured_outputs={"choice": ["yes"]}, min_tokens=50, max_tokens=60)  # type: ignore[arg-type]
    (output,) = llm.generate(["Is it?"], asked)
    assert (output.outputs[0].text, output.outputs[0].finish_reason) == ("yes", "stop")


def test_a_text_without_room_ends_with_length(llm: LLM) -> None:
    asked = SamplingParams(structured_outputs={"regex": "a{300}"}, max_tokens=2)  # type: ignore[arg-type]
    (output,) = llm.generate(["Say"], asked)
    assert output.outputs[0].finish_reason == "length" and set(output.outputs[0].text) == {"a"}


def test_what_cannot_be_compiled_is_refused_and_others_go_on(llm: LLM) -> None:
    with pytest.raises(RequestError, match="regular expression cannot be used"):
        llm.generate(["Say"], SamplingParams(structured_outputs={"regex": "(a"}))  # type: ignore[arg-type]
    assert llm.generate(["Say"], SamplingParams(max_tokens=3))[0].outputs[0].token_ids


def test_what_fails_on_its_way_is_an_error_and_no_output(llm: LLM) -> None:
    failing = SamplingParams(structured_outputs={"regex": "x{1000000}"})  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="structured output failed"):
        llm.generate(["a", "b"], failing)
    with pytest.raises(RequestError, match="structured output failed"):
        list(llm.generate("a", failing, stream=True))
    assert llm.stats().running == llm.stats().waiting == 0
