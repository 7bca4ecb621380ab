"""The watermark: which tokens are favoured, by what, and what of a row it changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inflight.runtime.sampling.reference import sample_row
from inflight.runtime.sampling.watermark import is_favoured
from inflight.runtime.scheduler.step import RowSampling
from tests.kernel.cpu.sampling_kernel import SamplingKernel
from tests.kernel.cpu.test_sampling import VOCABULARIES, assert_same, random_context, random_logits, random_sampling

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> SamplingKernel:
    return SamplingKernel(tmp_path_factory.mktemp("sampling"))


def hashed(previous: int, token: int) -> int:
    """docs/formats/engine.md in integers: 32 bits."""

    def scramble(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    key = scramble(previous ^ 15485863)
    return scramble((scramble(token ^ key) + key) % 2**32)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_kernel_and_definition_choose_the_same_token(
    kernel: SamplingKernel, rng: np.random.Generator, vocab: int
) -> None:
    for _ in range(200 if vocab < 2000 else 6):
        logits, context = random_logits(rng, vocab), random_context(rng, vocab)
        watermark: dict[str, Any] = {
            "watermark_delta": float(rng.choice([1e-3, 2.0, 100.0])),
            "watermark_gamma": float(np.float32(rng.uniform(0.01, 0.99))),
        }
        sampling = replace(random_sampling(rng, vocab), **watermark)
        assert_same(kernel.sample(logits, sampling, **context), sample_row(logits, sampling, **context))


def test_the_favoured_tokens_are_those_that_the_page_says(kernel: SamplingKernel, rng: np.random.Generator) -> None:
    """By an implementation in integers; the kernel's are the tokens that it draws where none other can win."""
    for gamma in (0.01, 0.25, 0.5, 0.99):
        previous = int(rng.integers(1 << 20))
        expected = [hashed(previous, token) < int(float(np.float32(gamma)) * 2**32) for token in range(777)]
        assert is_favoured(np.asarray(previous), np.arange(777), gamma).tolist() == expected
    watermarked = RowSampling(watermark_delta=100.0, watermark_gamma=0.5)
    for _ in range(200):
        previous, pair = int(rng.integers(1 << 20)), sorted(rng.choice(500, 2, replace=False).tolist())
        row = np.full(500, -np.inf, np.float32)
        row[pair] = 0.0
        favoured = [token for token in pair if hashed(previous, token) < 1 << 31]
        assert kernel.sample(row, watermarked, 7, previous=previous).token_id == (favoured or pair)[0]


@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_every_token_favours_its_share_and_no_two_the_same(rng: np.random.Generator, gamma: float) -> None:
    """Shares and overlaps lie within 8 standard deviations of independent draws: once in 10^12 by chance."""
    tokens = np.arange(20_000)
    some = rng.choice(1 << 17, 40, replace=False)
    lists = is_favoured(some[:, None], tokens[None], gamma)
    deviation = np.sqrt(gamma * (1 - gamma) / len(tokens))
    assert np.abs(lists.mean(axis=1) - gamma).max() < 8 * deviation
    agreement = gamma**2 + (1 - gamma) ** 2
    for one, other in zip(lists[1:], lists[:-1], strict=True):
        assert abs((one == other).mean() - agreement) < 8 * np.sqrt(agreement * (1 - agreement) / len(tokens))


def test_probabilities_are_those_of_raised_logits(kernel: SamplingKernel, rng: np.random.Generator) -> None:
    """The draws of a row with a watermark are those of a row whose favoured logits are greater by delta."""
    for position in range(300):
        logits = rng.normal(size=300).astype(np.float32)
        previous, delta = int(rng.integers(300)), float(np.float32(rng.uniform(0.1, 5)))
        sampling = RowSampling(temperature=1.0, seed=position, watermark_delta=delta, watermark_gamma=0.25)
        raised = logits + np.float32(delta) * is_favoured(np.asarray(previous), np.arange(300), 0.25)
        plain = replace(sampling, watermark_delta=0.0)
        drawn = kernel.sample(logits, sampling, position, previous=previous).token_id
        assert drawn == kernel.sample(raised.astype(np.float32), plain, position).token_id


def test_reported_probabilities_are_the_models_own(kernel: SamplingKernel, rng: np.random.Generator) -> None:
    logits = rng.normal(size=200).astype(np.float32)
    sampling: dict[str, Any] = {"temperature": 1.0, "num_logprobs": 5, "seed": 3}
    marked = kernel.sample(logits, RowSampling(**sampling, watermark_delta=50.0), 1, previous=9)
    token = marked.token_id
    assert marked == replace(kernel.sample(logits, RowSampling(**sampling), 1, target=token), token_id=token)
