"""The compiled engine's numbers, with transformers as the judge, for every family at random odd shapes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.loading.load import load_engine
from tests.engines.against_transformers import assert_same_greedy_tokens, assert_same_logits, oracle_logits
from tests.engines.built_engine import BuiltEngine, build_random_engine, fresh_rng
from tests.network.support import ALL_FAMILIES, chosen, some_of
from tests.pipeline.stepping import prompt_logits

pytestmark = pytest.mark.pipeline

# Every family, and of some of them what a random shape does not have: the family and what is not left to chance.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in ALL_FAMILIES},
    "llama with biases": ("llama", {"extra": {"mlp_bias": True, "attention_bias": True}}),
    "qwen3 of mixed layers": ("qwen3", {"num_layers": 3, "sliding_window": 9, "extra": {"max_window_layers": 1}}),
}


@pytest.fixture(scope="module", params=some_of(2, MODELS))
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """A float32 engine."""
    family, changes = MODELS[chosen(request.param, fresh_rng())]
    return build_random_engine(tmp_path_factory.mktemp("full"), family, torch.float32, changes, max_batch_size=4)


@pytest.fixture(
    scope="module",
    params=[
        *some_of(1, [(model, torch.bfloat16) for model in MODELS]),
        *some_of(1, [("llama", torch.float16), ("gemma2", torch.float16)]),
    ],
)
def half(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """An engine of half precision."""
    model, dtype = chosen(request.param, fresh_rng())
    print(model, dtype)
    family, changes = MODELS[model]
    return build_random_engine(tmp_path_factory.mktemp("half"), family, dtype, changes, max_batch_size=4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def full_executor(full: BuiltEngine) -> Iterator[CpuExecutor]:
    yield from opened(full)


@pytest.fixture
def half_executor(half: BuiltEngine) -> Iterator[CpuExecutor]:
    yield from opened(half)


def opened(engine: BuiltEngine) -> Iterator[CpuExecutor]:
    executor = load_engine(engine.directory)
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


def test_half_precision_is_no_worse_than_1_5_times_the_error_of_transformers(
    half: BuiltEngine, half_executor: CpuExecutor, rng: np.random.Generator
) -> None:
    prompt = half.random_prompt(rng, 150)
    exact = oracle_logits(copy.deepcopy(half.model).to(torch.float64), prompt)
    own = np.sqrt(np.mean((oracle_logits(half.model, prompt) - exact) ** 2))
    assert np.sqrt(np.mean((prompt_logits(half_executor, prompt) - exact) ** 2)) <= 1.5 * own
