"""The prompts of `inflight bench serve`, and what its flags refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from inflight.benchmark.serve.datasets import make_prompts
from inflight.benchmark.serve.options import ServeBenchOptions
from inflight.errors import RequestError
from inflight.runtime.text.tokenizer import Tokenizer
from tests.models.tiny_tokenizers import KINDS, random_text

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(KINDS["byte_level"]())


def options(**given: Any) -> ServeBenchOptions:
    return ServeBenchOptions.model_validate({"base_url": "http://127.0.0.1:9", **given})


def words(rng: np.random.Generator) -> str:
    return random_text(rng) + "fox"


def test_random_prompts_have_the_lengths_that_were_asked_for_and_come_again_with_the_seed(
    seed: int, rng: np.random.Generator, tokenizer: Tokenizer
) -> None:
    length, output, ratio = int(rng.integers(5, 60)), int(rng.integers(5, 60)), float(rng.uniform(0, 0.9))
    prefix = int(rng.integers(0, 9))
    chosen = options(
        num_prompts=20,
        random_input_len=length,
        random_output_len=output,
        random_range_ratio=ratio,
        random_prefix_len=prefix,
    )
    prompts = make_prompts(chosen, tokenizer, np.random.default_rng(seed))
    assert prompts == make_prompts(chosen, tokenizer, np.random.default_rng(seed))
    assert len(prompts) == 20 and len({prompt.token_ids for prompt in prompts}) == 20
    for prompt in prompts:
        assert prompt.token_ids is not None and prompt.num_tokens == len(prompt.token_ids)
        assert prompt.token_ids[:prefix] == (prompts[0].token_ids or ())[:prefix]
        assert max(prompt.token_ids) < tokenizer.backend.get_vocab_size(with_added_tokens=False)
        assert int(length * (1 - ratio)) <= prompt.num_tokens - prefix <= length * (1 + ratio)
        assert max(1, int(output * (1 - ratio))) <= prompt.output_len <= output * (1 + ratio)


def test_conversations_without_two_turns_of_text_are_passed_over(
    tmp_path: Path, rng: np.random.Generator, tokenizer: Tokenizer
) -> None:
    prompt, answer = words(rng), words(rng)
    good = {"conversations": [{"from": "human", "value": prompt}, {"value": answer}, {"value": "more"}]}
    others: list[Any] = [
        "text",
        {},
        {"conversations": None},
        {"conversations": [{"value": "alone"}]},
        {"conversations": ["a", "b"]},
        {"conversations": [{"value": ""}, {"value": "b"}]},
        {"conversations": [{"value": "a"}, {"value": 3}]},
        {"conversations": [{"text": "a"}, {"text": "b"}]},
    ]
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([*others, good]))
    (found,) = make_prompts(options(dataset_name="sharegpt", dataset_path=path), tokenizer, rng)
    assert found.text == prompt and found.token_ids == tuple(tokenizer.encode(prompt))
    assert found.output_len == len(tokenizer.encode(answer))
    (found,) = make_prompts(options(dataset_name="sharegpt", dataset_path=path, sharegpt_output_len=7), None, rng)
    assert found.output_len == 7 and found.token_ids is None and found.num_tokens >= 1
    path.write_text(json.dumps(others))
    with pytest.raises(RequestError, match="no prompt that can be used"):
        make_prompts(options(dataset_name="sharegpt", dataset_path=path), tokenizer, rng)


def test_lines_of_a_file_of_ones_own_say_their_output_lengths(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one", "output_tokens": 3}\n\n{"prompt": "two"}\n')
    prompts = make_prompts(options(dataset_name="custom", dataset_path=path, custom_output_len=9), None, rng)
    assert {(prompt.text, prompt.output_len) for prompt in prompts} == {("one", 3), ("two", 9)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON lines: line 2: "),
        ("[]", 'line 2: it has no text under "prompt"'),
        ('{"prompt": 3}', 'line 2: it has no text under "prompt"'),
        ('{"prompt": ""}', 'line 2: it has no text under "prompt"'),
        ('{"prompt": "a", "output_tokens": "many"}', "line 2: output_tokens is 'many'"),
        ('{"prompt": "a", "output_tokens": null}', "line 2: output_tokens is None"),
        ('{"prompt": "a", "output_tokens": 0}', "line 2: output_tokens is 0"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, rng: np.random.Generator, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(RequestError, match=message):
        make_prompts(options(dataset_name="custom", dataset_path=path), None, rng)


def test_a_file_that_is_needed_or_missing_is_named(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(RequestError, match="--dataset-name custom needs a file"):
        make_prompts(options(dataset_name="custom"), None, rng)
    with pytest.raises(RequestError, match="missing cannot be read"):
        make_prompts(options(dataset_name="sharegpt", dataset_path=tmp_path / "missing"), None, rng)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metric_percentiles", (50, 101)),
        ("metric_percentiles", (-1,)),
        ("metric_percentiles", ("nan",)),
        ("percentile_metrics", ("ttft", "speed")),
        ("seed", -1),
        ("num_prompts", 0),
        ("random_range_ratio", 1.0),
        ("request_rate", 0),
        ("burstiness", "inf"),
        ("temperature", "nan"),
        ("goodput", {"speed": 3}),
    ],
)
def test_values_that_would_fail_behind_the_measurement_are_refused_before_it(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        options(**{name: value})
