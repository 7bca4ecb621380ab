"""Filters of the sampler that the cuda target's chain does not have: kernel, definition, and their authors' code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import TypicalLogitsWarper

from inflight.runtime.sampling.reference import kept_tokens, sample_row
from inflight.runtime.scheduler.step import RowSampling
from tests.kernel.cpu.sampling_kernel import SamplingKernel
from tests.kernel.cpu.test_sampling import VOCABULARIES, assert_same, random_context, random_logits, random_sampling

pytestmark = pytest.mark.kernel

# Alone, and the values at which each is off.
FILTERS: list[dict[str, float]] = [{"typical_p": 0.2}, {"typical_p": 0.95}, {"top_n_sigma": 0.5}, {"top_n_sigma": 2.0}]
OFF = {"typical_p": 1.0, "top_n_sigma": 0.0, "watermark_delta": 0.0}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> SamplingKernel:
    return SamplingKernel(tmp_path_factory.mktemp("sampling"))


def random_filters(rng: np.random.Generator, vocab: int) -> RowSampling:
    """Any sampling, with these filters beside the others or instead of them."""
    sampling = random_sampling(rng, vocab)
    if rng.random() < 0.5:
        sampling = replace(sampling, top_k=0, top_p=1.0, min_p=0.0)
    typical_p = rng.choice([1.0, 1e-6, 0.1, 0.5, 0.9, 0.999999, float(np.float32(rng.uniform(1e-3, 1)))])
    top_n_sigma = rng.choice([0.0, 0.0, 1e-6, 0.5, 1.0, 3.0, 1e38, float(np.float32(rng.uniform(1e-3, 4)))])
    watermark: dict[str, Any] = {
        "watermark_delta": float(rng.choice([0.0, 1e-3, 2.0, 100.0])),
        "watermark_gamma": float(np.float32(rng.choice([0.01, 0.25, 0.5, 0.99]))),
    }
    return replace(sampling, typical_p=float(typical_p), top_n_sigma=float(top_n_sigma), **watermark)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_kernel_and_definition_choose_the_same_token(
    kernel: SamplingKernel, rng: np.random.Generator, vocab: int
) -> None:
    for _ in range(400 if vocab < 2000 else 12):
        logits, sampling, context = random_logits(rng, vocab), random_filters(rng, vocab), random_context(rng, vocab)
        expected = sample_row(logits, sampling, **context)
        assert_same(kernel.sample(logits, sampling, **context), expected)


@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("values", FILTERS, ids=str)
def test_each_filter_alone_matches_the_definition(
    kernel: SamplingKernel, rng: np.random.Generator, vocab: int, values: dict[str, Any]
) -> None:
    for _ in range(20 if vocab < 2000 else 2):
        logits = (rng.normal(size=vocab) * 3).astype(np.float32)
        sampling = RowSampling(temperature=float(rng.uniform(0.2, 2)), seed=int(rng.integers(2**60)), **values)
        assert kernel.sample(logits, sampling, 7).token_id == sample_row(logits, sampling, 7).token_id


@pytest.mark.parametrize("values", FILTERS, ids=str)
def test_exactly_the_kept_tokens_are_drawn(
    kernel: SamplingKernel, rng: np.random.Generator, values: dict[str, Any]
) -> None:
    logits = rng.normal(size=23).astype(np.float32)
    sampling = RowSampling(temperature=1.0, seed=int(rng.integers(2**60)), **values)
    kept, weights = kept_tokens(logits, sampling)
    drawn = {kernel.sample(logits, sampling, position).token_id for position in range(4000)}
    likely = {int(token) for token in kept if weights[token] > 0.01 * weights[kept].sum()}
    assert likely <= drawn <= set(kept.tolist())


def test_a_filter_that_is_off_changes_nothing(kernel: SamplingKernel, rng: np.random.Generator) -> None:
    for _ in range(100):
        logits, sampling, context = random_logits(rng, 1001), random_sampling(rng, 1001), random_context(rng, 1001)
        plain = kernel.sample(logits, sampling, **context)
        assert repr(kernel.sample(logits, replace(sampling, **OFF), **context)) == repr(plain)  # type: ignore[arg-type]


def test_the_result_does_not_depend_on_the_instruction_set(
    kernel: SamplingKernel, tmp_path: Any, rng: np.random.Generator
) -> None:
    baseline = SamplingKernel(tmp_path, cpu="baseline")
    for vocab in (257, 1001):
        for _ in range(100):
            logits, sampling = random_logits(rng, vocab), random_filters(rng, vocab)
            context = random_context(rng, vocab)
            expected = kernel.sample(logits, sampling, **context)
            assert repr(baseline.sample(logits, sampling, **context)) == repr(expected)


def _typical_mass(rng: np.random.Generator, scores: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    """A mass in the middle of a token's weight, where rounding decides nothing; None when there is no such place."""
    logp = scores - np.logaddexp.reduce(scores)
    distance = np.abs(-logp + (np.exp(logp) * logp).sum())
    order = np.argsort(distance)
    sums = np.cumsum(np.exp(logp)[order])
    place = int(rng.integers(len(scores)))
    least, greatest = (sums[place - 1] if place else 0.0), sums[place]
    later = distance[order[place + 1]] if place + 1 < len(order) else np.inf
    apart = greatest - least > 1e-4 and later - distance[order[place]] > 1e-4
    return float(np.float32((least + greatest) / 2)) if apart else None


@pytest.mark.parametrize("top_k", [0, 17])
def test_typical_keeps_what_transformers_keeps(rng: np.random.Generator, top_k: int) -> None:
    compared = 0
    for _ in range(300):
        logits = (rng.normal(size=60) * rng.choice([0.3, 1.0, 3.0])).astype(np.float32)
        temperature = float(np.float32(rng.uniform(0.3, 2)))
        scores = logits.astype(np.float64) / temperature
        candidates = np.sort(np.argsort(-logits, kind="stable")[: top_k or None])
        mass = _typical_mass(rng, scores[candidates])
        if mass is None:
            continue
        compared += 1
        warped = TypicalLogitsWarper(mass)(None, torch.from_numpy(scores[candidates])[None])[0].numpy()
        sampling = RowSampling(temperature=temperature, top_k=top_k, typical_p=mass)
        kept, _ = kept_tokens(logits, sampling)
        assert kept.tolist() == candidates[warped > -np.inf].tolist()
    assert compared > 30


def test_top_n_sigma_keeps_what_lies_near_the_greatest_logit_at_any_temperature(rng: np.random.Generator) -> None:
    compared = 0
    for _ in range(100):
        logits = rng.normal(size=int(rng.integers(1, 200))).astype(np.float32)
        banned = rng.random(len(logits)) < 0.2
        banned[rng.integers(len(logits))] = False
        logits[banned] = -np.inf
        number = float(np.float32(rng.uniform(0.01, 4)))
        wide = logits.astype(np.float64)
        margin = wide - (wide.max() - number * wide[~banned].std())
        if np.abs(margin).min() < 1e-9:
            continue
        compared += 1
        for temperature in (0.7, 1.0, 5.0):
            kept, _ = kept_tokens(logits, RowSampling(temperature=temperature, top_n_sigma=number))
            assert kept.tolist() == np.flatnonzero(margin > 0).tolist()
    assert compared > 90


def test_top_n_sigma_counts_before_the_other_filters(rng: np.random.Generator) -> None:
    """The deviation is that of all logits, not of those that top_k leaves."""
    logits = rng.normal(size=200).astype(np.float32)
    near, _ = kept_tokens(logits, RowSampling(temperature=1.0, top_n_sigma=1.0))
    both, _ = kept_tokens(logits, RowSampling(temperature=1.0, top_n_sigma=1.0, top_k=50))
    assert both.tolist() == sorted(near[np.argsort(-logits[near], kind="stable")][:50].tolist())


def test_greedy_choices_do_not_look_at_filters(kernel: SamplingKernel, rng: np.random.Generator) -> None:
    logits = rng.normal(size=1001).astype(np.float32)
    sampling = RowSampling(typical_p=0.01, top_n_sigma=0.1)
    assert kernel.sample(logits, sampling, 3).token_id == int(np.argmax(logits))
