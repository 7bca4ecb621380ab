"""The sampling chain of the cuda target against the definition of sampling: the same tokens, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.spec import Variant
from inflight.runtime.sampling.reference import sample_row, score_row
from inflight.runtime.scheduler.step import RowSampling
from tests.kernel.cpu.test_sampling import assert_same, random_context, random_logits, random_sampling
from tests.kernel.gpu.support.cuda_gpu import run_on_gpu
from tests.kernel.gpu.support.cuda_launch import SPECS, interpret
from tests.kernel.gpu.support.cuda_sampling import Row, report, sample

from inflight.build.gpu_kernels.kernels import linear, quantized_linear  # isort: skip
from inflight.build.gpu_kernels.kernels.quantized_tiles import OUTPUT  # isort: skip
from inflight.build.gpu_kernels.kernels.split_sums import FEW_ROWS, MANY_FLOAT32_ROWS, workspace  # isort: skip

pytestmark = pytest.mark.kernel

Array = npt.NDArray[Any]

# One token; less than a chunk; two chunks and a part of a third.
VOCABULARIES = [1, 257, 9001]


def random_row(rng: np.random.Generator, vocab: int) -> Row:
    sampling = random_sampling(rng, vocab)
    context = random_context(rng, vocab)
    # The chain has no link for a watermark.
    del context["previous"]
    return Row(replace(sampling, bias=tuple(dict(sampling.bias).items()), watermark_delta=0.0), **context)


def expected(logits: npt.NDArray[np.float32], rows: list[Row]) -> list[int]:
    return [
        sample_row(line, row.sampling, row.position, row.history, row.prompt_length, row.banned, row.allowed).token_id
        for line, row in zip(logits, rows, strict=True)
    ]


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_sampling_chooses_the_tokens_of_its_definition(rng: np.random.Generator, vocab: int) -> None:
    rows = [random_row(rng, vocab) for _ in range(6)]
    logits = np.stack([random_logits(rng, vocab) for _ in rows])
    assert sample(interpret, logits, rows) == expected(logits, rows)


@pytest.mark.parametrize(
    "values", [{}, {"top_k": 50}, {"top_p": 0.9}, {"min_p": 0.01}, {"top_k": 300, "top_p": 0.7, "min_p": 0.001}]
)
def test_links_that_no_row_needs_may_be_left_out(rng: np.random.Generator, values: dict[str, Any]) -> None:
    rows = [Row(replace(RowSampling(temperature=1.5, seed=seed), **values), seed) for seed in range(3)]
    logits = (rng.normal(size=(len(rows), 5003)) * 2).astype(np.float32)
    assert sample(interpret, logits, rows) == expected(logits, rows)


def test_equal_values_are_cut_by_their_ids_across_chunks(rng: np.random.Generator) -> None:
    logits = rng.integers(0, 3, (4, 9001)).astype(np.float32)
    filters: list[dict[str, Any]] = [{"top_k": 6001}, {"top_p": 0.5}, {"top_k": 5000, "top_p": 0.97}, {"top_k": 1}]
    rows = [
        Row(replace(RowSampling(temperature=2.0, seed=int(rng.integers(2**63))), **filters[index]), index)
        for index in range(4)
    ]
    assert sample(interpret, logits, rows) == expected(logits, rows)


def test_a_row_gets_the_same_token_in_any_company(rng: np.random.Generator) -> None:
    rows = [random_row(rng, 5003) for _ in range(3)]
    logits = np.stack([random_logits(rng, 5003) for _ in rows])
    together = sample(interpret, logits, rows)
    assert [sample(interpret, logits[[index]], [rows[index]])[0] for index in range(3)] == together


def test_rows_without_a_number_and_greedy_ties_give_the_lowest_token() -> None:
    logits = np.full((4, 5003), np.nan, np.float32)
    logits[2:] = 1.0
    rows = [Row(RowSampling(temperature=temperature), 0) for temperature in (0.0, 1.0, 0.0, 0.0)]
    assert sample(interpret, logits, rows) == [0, 0, 0, 0]


@pytest.mark.parametrize("vocab", [1, 300, 9001])
def test_log_probabilities_and_ranks_are_those_of_the_definition(rng: np.random.Generator, vocab: int) -> None:
    wanted = [-1, 0, 1, 5, 64]
    logits = np.stack([random_logits(rng, vocab) for _ in wanted])
    tokens, targets = (rng.integers(vocab, size=len(wanted)).tolist() for _ in range(2))
    targets = [target if rng.integers(2) else -1 for target in targets]
    results = report(interpret, logits, tokens, targets, wanted)
    for result, row, token, target, count in zip(results, logits, tokens, targets, wanted, strict=True):
        assert_same(result, score_row(row, target if target >= 0 else token, count))


def test_a_row_of_nothing_but_nan_has_no_probabilities() -> None:
    (result,) = report(interpret, np.full((1, 300), np.nan, np.float32), [7], [-1], [2])
    assert (result.logprob, result.rank, result.top) == (-np.inf, 8, ((0, -np.inf), (1, -np.inf)))


def projected(run: Any, x: Array, weight: Array, bias: Array, *, few: bool, wide: bool) -> tuple[Array, list[int]]:
    """The logits of a vocabulary projection, and the tokens of their greatest as the same product finds them. `wide`:
    weights of float32, else int8 levels beside x of float32."""
    rows, (n, k) = len(x), weight.shape
    arrays = {"x": x, "weight": weight if wide else weight.astype(np.int8), "rows": rows}
    arrays |= dict.fromkeys(("residual", "x_scale", "unit", "zero", "codebook"), np.zeros(1, np.float32))
    arrays |= {"weight_scale": np.ones(n, np.float32), "bias": bias}
    tile = FEW_ROWS if few else MANY_FLOAT32_ROWS
    if wide:
        variant, choosing = (
            linear.linear_variant(n, k, tile=tile, has_bias=True, x="fp32", bias="fp32"),
            linear.choosing,
        )
    else:
        kinds: dict[str, Any] = {"shares": OUTPUT, "x": "fp32", "bias": "fp32"}
        variant = quantized_linear.quantized_variant(n, k, "int8", "plain", tile=tile, **kinds)
        choosing = quantized_linear.choosing
    function = "linear" if wide else "quantized_linear"
    sums, tiles = workspace(variant, SPECS[function].tune(90, variant), rows)
    arrays |= {"partial": np.full(sums, np.nan, np.float32), "arrived": np.zeros(tiles, np.int32)}
    logits, greatest = np.full((rows, n), np.nan, np.float32), np.zeros(rows, np.int64)
    run(function, variant, {**arrays, "y": logits}, {"rows": rows})
    run(function, choosing(variant), {**arrays, "y": greatest}, {"rows": rows})
    tokens = np.full(rows, -1, np.int32)
    run("greatest_tokens", Variant(), {"greatest": greatest, "tokens": tokens, "rows": rows}, {"rows": rows})
    assert not greatest.any(), "the next step begins at zero"
    return logits, tokens.tolist()


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("few", [True, False])
def test_the_vocabulary_projection_finds_the_greatest_logits(
    rng: np.random.Generator, run: Any, few: bool, wide: bool
) -> None:
    """Of few values, so that many are equal, across tiles that the vocabulary does not fill."""
    rows, n, k = int(rng.integers(1, 17 if few else 40)), int(rng.integers(1, 300)), int(rng.integers(1, 150))
    x = rng.integers(-1, 2, (rows, k)).astype(np.float32)
    weight = rng.integers(-1, 2, (n, k)).astype(np.float32)
    x[rng.integers(rows)] = 0
    # What a tile has behind the vocabulary is no better than what is in it.
    bias = rng.integers(-502, -499, n).astype(np.float32)
    logits, tokens = projected(run, x, weight, bias, few=few, wide=wide)
    assert np.array_equal(logits, x @ weight.T + bias)
    assert tokens == expected(logits, [Row(RowSampling(), 0)] * rows)


@pytest.mark.parametrize("run", [interpret, run_on_gpu])
def test_logits_that_are_no_numbers_are_the_least_and_infinities_the_greatest(
    rng: np.random.Generator, run: Any
) -> None:
    n = int(rng.integers(200, 300))
    x = np.array([[1.0], [-1.0], [np.nan], [0.0], [-0.0]], np.float32)
    weight = rng.choice(np.array([np.nan, np.inf, -np.inf, 3e38, 1.0, -2.0], np.float32), (n, 1))
    weight[0] = np.nan
    weight[:, 0][np.isinf(weight[:, 0]) & (rng.random(n) < 0.9)] = 1.0
    for numbers in (weight, np.full((n, 1), -np.inf, np.float32), np.full((n, 1), np.nan, np.float32)):
        logits, tokens = projected(run, x, numbers, np.zeros(n, np.float32), few=True, wide=True)
        assert tokens == expected(logits, [Row(RowSampling(), 0)] * len(x))
