"""Compiled engines of mixtures of experts, with transformers as the judge, at random odd shapes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling
from tests.engines.against_transformers import assert_same_greedy_tokens, assert_same_logits, oracle_logits
from tests.engines.built_engine import BuiltEngine, build_random_engine
from tests.models.families.mixtures import MIXTURES
from tests.pipeline.stepping import Run, prompt_logits, run_all

pytestmark = pytest.mark.pipeline

# Compiling is most of the time: some always, all with --slow.
_ALWAYS = ("qwen2_moe", "gpt_oss")


def _some(families: tuple[str, ...]) -> list[object]:
    return [family if family in families else pytest.param(family, marks=pytest.mark.slow) for family in MIXTURES]


@pytest.fixture(scope="module", params=_some(_ALWAYS))
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """A float32 engine."""
    return build_random_engine(tmp_path_factory.mktemp("full"), request.param, torch.float32, max_batch_size=4)


@pytest.fixture(scope="module", params=_some(("gpt_oss",)))
def half(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """A bfloat16 engine."""
    return build_random_engine(tmp_path_factory.mktemp("half"), request.param, torch.bfloat16, max_batch_size=4)


@pytest.fixture
def full_executor(full: BuiltEngine) -> Iterator[CpuExecutor]:
    yield from opened(full)


@pytest.fixture
def half_executor(half: BuiltEngine) -> Iterator[CpuExecutor]:
    yield from opened(half)


def opened(engine: BuiltEngine, threads: int | None = None) -> Iterator[CpuExecutor]:
    executor = load_engine(engine.directory, threads=threads)
    assert isinstance(executor, CpuExecutor)
    yield executor
    executor.close()


def test_float32_logits_are_those_of_transformers(
    full: BuiltEngine, full_executor: CpuExecutor, rng: np.random.Generator
) -> None:
    assert_same_logits(full, full_executor, rng)


def test_64_greedy_tokens_are_those_of_transformers(
    full: BuiltEngine, full_executor: CpuExecutor, rng: np.random.Generator
) -> None:
    assert_same_greedy_tokens(full, full_executor, rng)


def test_bfloat16_is_no_worse_than_1_5_times_the_error_of_transformers(
    half: BuiltEngine, half_executor: CpuExecutor, rng: np.random.Generator
) -> None:
    """Of the usual token: one whose router hesitates may meet other experts in either, which says nothing of either."""
    prompt = half.random_prompt(rng, 150)
    exact = oracle_logits(copy.deepcopy(half.model).to(torch.float64), prompt)
    own, ours = (
        float(np.median(np.sqrt(np.mean((logits - exact) ** 2, axis=1))))
        for logits in (oracle_logits(half.model, prompt), prompt_logits(half_executor, prompt))
    )
    assert ours <= 1.5 * own


@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_alone_has_the_bits_that_it_has_in_company(
    half: BuiltEngine, rng: np.random.Generator, threads: int
) -> None:
    """Prompts of all lengths in chunks of all sizes, together and one by one, on one thread and several."""
    prompts = [half.random_prompt(rng, int(rng.integers(1, 40))) for _ in range(4)]
    found = []
    for executor in opened(half, threads):
        together = [Run(prompt, RowSampling(), 8, score_prompt=True) for prompt in prompts]
        run_all(executor, together, rng, lambda: int(rng.integers(1, 20)))
        for prompt in prompts:
            alone = Run(prompt, RowSampling(), 8, score_prompt=True)
            run_all(executor, [alone], rng, lambda: int(rng.integers(1, 60)))
            found.append(alone)
        for one, other in zip(together, found, strict=True):
            assert one.results == other.results
            assert one.prompt_results == other.prompt_results
