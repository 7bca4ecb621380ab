"""What a request may ask of the sampler. A value that passed and failed in a step would fail every other request."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.cpu.sampling_rows import SamplingRows
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams, params_over_defaults
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from inflight.sampling_parameters import SAMPLING_PARAMETERS

pytestmark = pytest.mark.unit

INTEGERS = tuple(row.name for row in SAMPLING_PARAMETERS if row.kind == "integer")
NUMBERS = tuple(row.name for row in SAMPLING_PARAMETERS if row.kind == "number")
EXTREMES = (-(10**30), -(2**63), -2, -1, 0, 1, 2, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30)
MAGNITUDES = (-math.inf, -1e308, -2.5, -1e-60, 0.0, 1e-300, 1e-45, 1e-38, 0.5, 1.0, 3e38, 1e39, math.inf, math.nan)


class Recording(NullExecutor):
    """Writes the sampling records that a compiled engine would read before it answers."""

    def execute(self, batch: StepBatch) -> StepOutput:
        rows = SamplingRows(len(batch.sequences))
        for row, sequence in enumerate(batch.sequences):
            rows.choose(row, sequence)
        return super().execute(batch)


def serve(params: SamplingParams) -> None:
    core = EngineCore(Recording(null_manifest(vocab_size=100, max_seq_len=64, max_batch_size=8), num_blocks=64))
    core.add_request(Request("request", (1, 2, 3), params))
    while core.has_unfinished():
        core.step()


@pytest.mark.parametrize("name", [*INTEGERS, *NUMBERS, "logit_bias"])
def test_every_value_is_refused_or_served(name: str) -> None:
    values: list[Any] = [*EXTREMES, *MAGNITUDES, "1", [1], {}, True]
    for value in values:
        fields: dict[str, Any] = {"max_tokens": 2, name: {7: value} if name == "logit_bias" else value}
        try:
            params = SamplingParams(**fields)
            if params.n <= 8 and (params.best_of or 1) <= 8:
                serve(params)
        except RequestError:
            continue


def test_what_leaves_no_token_is_refused_whatever_forbids_each(rng: np.random.Generator) -> None:
    """And what leaves one is served with that one."""
    for _ in range(30):
        tokens, ways = rng.permutation(100), rng.integers(3, size=100)

        def params(tokens: list[tuple[int, int]]) -> SamplingParams:
            of = [[token for token, way in tokens if way == each] for each in range(3)]
            bias = dict.fromkeys(of[0], -math.inf)
            words = tuple((token,) for token in of[1])
            return SamplingParams(max_tokens=2, min_tokens=1, logit_bias=bias, bad_word_ids=words, stop_token_ids=of[2])

        both = [(int(token), int(way)) for token, way in zip(tokens, ways, strict=True)]
        serve(params(both[:-1]))
        with pytest.raises(RequestError, match="forbid every token"):
            serve(params(both))


@pytest.mark.parametrize("name", [*INTEGERS, *NUMBERS])
def test_a_value_of_another_type_is_refused_by_name(name: str) -> None:
    values: list[Any] = ["1", [1], {}, 1.5 if name in INTEGERS else None]
    for value in values:
        with pytest.raises(RequestError, match=rf"^{name} is .*; it must be (an integer|a number)"):
            SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": [3]}, "stop must be"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids must be"),
        ({"bad_words": "word"}, "bad_words must be"),
        ({"bad_word_ids": (1,)}, "bad_word_ids must be"),
        ({"logit_bias": {"5": 1.0}}, "logit_bias must map"),
        ({"n": 10**6}, "n is 1000000; it must be between 1 and"),
    ],
)
def test_a_list_of_the_wrong_things_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**fields)


def test_numbers_of_numpy_are_numbers() -> None:
    params = SamplingParams(temperature=np.float32(0.5), top_k=np.int64(5), stop_token_ids=[np.int32(3)])  # type: ignore[arg-type,list-item]
    assert (params.temperature, params.top_k, params.stop_token_ids) == (0.5, 5, (3,))


def test_a_top_k_beyond_every_vocabulary_is_allowed() -> None:
    serve(SamplingParams(top_k=10**20, max_tokens=2))


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, 1e-60, 1e-45])
def test_a_top_p_of_zero_is_the_likeliest_token_or_beside_a_top_k_off(zero: float) -> None:
    """As TensorRT-LLM has it; a number that is zero to a sampler in float32 is zero."""
    for off in (0, -1):
        assert SamplingParams(top_p=zero, top_k=off) == SamplingParams(top_p=1.0, top_k=1)
    assert SamplingParams(top_p=zero, top_k=40) == SamplingParams(top_k=40)
    serve(SamplingParams(top_p=zero, max_tokens=2))


def test_a_models_own_top_k_does_not_stand_beside_a_top_p_of_zero() -> None:
    defaults = {"top_k": 20, "top_p": 0.8, "of_another_program": 1}
    assert params_over_defaults(defaults, {}) == SamplingParams(top_k=20, top_p=0.8)
    assert params_over_defaults(defaults, {"top_p": 0}) == SamplingParams(top_k=1)
    assert params_over_defaults(defaults, {"top_p": 0, "top_k": 5}) == SamplingParams(top_k=5)


@pytest.mark.parametrize("stop", ["", [""], ("", "")])
def test_an_empty_stop_string_asks_for_nothing(stop: Any) -> None:
    assert SamplingParams(stop=stop) == SamplingParams()
    assert SamplingParams(stop=["", "x"]).stop == ("x",)
