"""What is served embedded is served behind Triton, with the same numbers in the sampler, and refused likewise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inflight.errors import RequestError
from inflight.runtime.request.request import Request
from inflight.runtime.request.validation import check_request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.sampling.rules import row_sampling
from inflight.runtime.scheduler.step import RowSampling
from inflight.sampling_parameters import SAMPLING_PARAMETERS, SamplingParameter, to_float32
from inflight.triton_backend.tensorrt_llm.generation_request import ModelDefaults, read_request
from inflight.triton_backend.wire.request_tensors import RowTensors
from inflight.triton_backend.wire.token_wire import request_tensors

pytestmark = pytest.mark.unit

DTYPES: dict[str, Any] = {"INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32}
NUMBERS = [row for row in SAMPLING_PARAMETERS if row.kind == "number" and row.triton]
SCALARS = [row for row in SAMPLING_PARAMETERS if row.kind in ("number", "integer") and row.triton]
# TensorRT-LLM's clients send 0 or less for "not set"; embedded, such a value has no meaning.
UNSET: dict[str, Callable[[float], bool]] = {
    "n": lambda value: value == 0,
    "top_k": lambda value: value <= 0,
    "top_p": lambda value: to_float32(value) <= 0,
}
VOCAB = 300


def _is_unset(name: str, value: float) -> bool:
    return name in UNSET and UNSET[name](value)


def sampler(request: Request) -> RowSampling:
    """What the sampler of a served request gets. Raises RequestError for one that is not served."""
    check_request(request, vocab_size=VOCAB, max_seq_len=1000, cache_tokens=1000)
    return row_sampling(request.params, request.params.seed or 0, 0)


def embedded(fields: dict[str, Any]) -> RowSampling | None:
    try:
        return sampler(Request("id", (1, 2, 3), SamplingParams(**{"max_tokens": 20, **fields})))
    except RequestError:
        return None


def behind_triton(tensors: dict[str, Any]) -> RowSampling | None:
    try:
        return sampler(read_request(RowTensors(tensors, 0), "id", ModelDefaults((2,), VOCAB)).request)
    except RequestError:
        return None


def through_the_wire(fields: dict[str, Any]) -> RowSampling | None:
    params = SamplingParams(**{"max_tokens": 20, **fields})
    return behind_triton(request_tensors(Request("id", (1, 2, 3), params)))


def raw_tensors(name: str, value: Any, dtype: str) -> dict[str, Any]:
    """A request of a client of its own; with a top_p, so that it is not greedy."""
    base = {"input_ids": [[1, 2, 3]], "input_lengths": [[3]], "request_output_len": [[20]]}
    tensors = {each: np.array(ids, np.int32) for each, ids in base.items()}
    with np.errstate(over="ignore"):
        given = np.array([[value]], np.float64).astype(np.float32) if dtype == "FP32" else np.array([[value]])
    return {**tensors, "runtime_top_p": np.ones((1, 1), np.float32), name: given.astype(DTYPES[dtype])}


def number(rng: np.random.Generator, row: SamplingParameter) -> Any:
    """Any float, or one at an edge: a bound, between two float32, where float32 ends, or no number at all."""
    kind = rng.integers(6)
    bits = int(rng.integers(2**64, dtype=np.uint64))
    if kind == 0:
        return float(np.uint64(bits).view(np.float64))
    if kind == 1:
        return float(np.uint32(bits >> 32).view(np.float32))
    if kind == 2:
        return rng.choice([math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-60, -1e-60, 1e-45, 3.4028235e38, 3.5e38])
    if kind == 3:
        return [True, False, 1, 0, -1, 2, 10**30, 10**400, -(10**400)][int(rng.integers(9))]
    edges = [row.least, row.greatest, row.default, 1e-37, 1e38, -1.0, 1.0]
    edge = float(rng.choice([edge for edge in edges if edge is not None and math.isfinite(edge)]))
    if kind == 4:
        return edge
    # Halfway to a neighbour in float32, and a step of float64 to either side of that.
    neighbour = float(np.nextafter(np.float32(edge), np.float32(rng.choice([-np.inf, np.inf]))))
    middle = (edge + neighbour) / 2
    return float(rng.choice([neighbour, middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)]))


def integer(rng: np.random.Generator) -> int:
    edges = (-(2**31), -2, -1, 0, 1, 2, 19, 20, 21, 64, 65, 1024, 1025, 2**31 - 1, 2**31, 2**63, 2**64, 10**30)
    return int(rng.integers(-5, 30)) if rng.random() < 0.5 else edges[int(rng.integers(len(edges)))]


@pytest.mark.parametrize("row", SCALARS, ids=lambda row: row.name)
def test_a_value_is_served_with_the_same_numbers_or_refused_on_both_ways(
    rng: np.random.Generator, row: SamplingParameter
) -> None:
    for _ in range(300):
        value: Any = number(rng, row) if row.kind == "number" else integer(rng)
        expected = embedded({row.name: value})
        if expected is not None:
            assert through_the_wire({row.name: value}) == expected, value
        dtype = row.triton[-1].dtype
        fits = dtype == "FP32" or np.iinfo(DTYPES[dtype]).min <= value <= np.iinfo(DTYPES[dtype]).max
        if fits and not _is_unset(row.name, value) and abs(value) < 1e300:
            served = behind_triton(raw_tensors(row.triton[-1].name, value, dtype))
            assert (served is None) == (expected is None), value


def test_many_parameters_together_come_through_the_wire(rng: np.random.Generator) -> None:
    for _ in range(300):
        fields: dict[str, Any] = {
            row.name: float(rng.uniform(max(row.least, -3), min(row.greatest, 3))) for row in NUMBERS
        }
        fields |= {"top_k": int(rng.integers(-1, 60)), "seed": int(rng.integers(-(2**62), 2**62)), "min_tokens": 3}
        fields["logit_bias"] = {int(rng.integers(VOCAB)): float(rng.normal()) for _ in range(3)}
        expected = embedded(fields)
        assert expected is not None and through_the_wire(fields) == expected


def test_a_bias_is_served_with_the_same_number_or_refused_on_both_ways(rng: np.random.Generator) -> None:
    row = next(row for row in SAMPLING_PARAMETERS if row.name == "temperature")
    for _ in range(300):
        value = number(rng, row)
        expected = embedded({"logit_bias": {7: value}})
        if expected is not None:
            assert through_the_wire({"logit_bias": {7: value}}) == expected, value
        if abs(value) < 1e300:
            ids = {"logit_bias_ids": np.array([[7]], np.int32)}
            served = behind_triton({**raw_tensors("logit_bias_values", value, "FP32"), **ids})
            assert (served is None) == (expected is None), value


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_what_is_no_finite_number_is_refused(row: SamplingParameter) -> None:
    for value in (math.nan, math.inf, -math.inf, 1e39, 10**400, -(10**400)):
        fields: dict[str, Any] = {row.name: value}
        with pytest.raises(RequestError, match=f"^{row.name} is .*; it must be"):
            SamplingParams(**fields)


def test_the_least_top_p_is_the_same_everywhere() -> None:
    for value in (1e-37, to_float32(1e-37)):
        assert embedded({"top_p": value}) == through_the_wire({"top_p": value}) is not None
    below = float(np.nextafter(np.float32(1e-37), np.float32(0)))
    # What a sampler could take for zero is zero.
    found = behind_triton(raw_tensors("runtime_top_p", below, "FP32"))
    assert embedded({"top_p": below}) == embedded({"top_p": 0}) == found is not None


def test_the_field_keeps_what_the_caller_wrote_and_the_sampler_gets_what_float32_holds() -> None:
    params = SamplingParams(temperature=0.7)
    assert params.temperature == 0.7
    assert row_sampling(params, 0, 0).temperature == float(np.float32(0.7))
    assert replace(params, top_k=-1).top_k == 0
