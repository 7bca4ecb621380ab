"""The profile of a compiled step: every operator is there, and its work is what the shapes say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.executors.cpu.profile import OperatorProfile, sum_by_kind
from inflight.runtime.kv_cache.budget import KvCacheBudget
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.engines.built_engine import BuiltEngine, build_random_engine

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module", params=["llama", "mistral"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    root = tmp_path_factory.mktemp("engine")
    return build_random_engine(root, request.param, torch.float32, max_seq_len=160, tokens_per_block=16)


@pytest.fixture
def executor(built: BuiltEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CpuExecutor]:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))
    opened = load_engine(built.directory, threads=2, kv_cache=KvCacheBudget(tokens=320))
    assert isinstance(opened, CpuExecutor)
    yield opened
    opened.close()


def _run(executor: CpuExecutor, built: BuiltEngine, rng: np.random.Generator, start: int, count: int) -> None:
    prompt = built.random_prompt(rng, count)
    sequence = ScheduledSequence(0, prompt, start, range(10), sampling=RowSampling(), sample_last=True)
    executor.execute(StepBatch([sequence]))


def _by_kind(profile: list[OperatorProfile], kind: str) -> list[OperatorProfile]:
    return [operator for operator in profile if operator.kind == kind]


def test_a_profile_counts_the_flops_of_products_and_attention(
    built: BuiltEngine, executor: CpuExecutor, rng: np.random.Generator
) -> None:
    first, second = int(rng.integers(2, 60)), int(rng.integers(1, 60))
    _run(executor, built, rng, 0, first)  # not in the profile
    executor.start_profile()
    _run(executor, built, rng, 0, first)
    _run(executor, built, rng, first, second)
    profile = executor.profile()

    config = built.model.config
    window = executor.manifest.model.sliding_window or 1 << 30
    pairs = sum(min(position + 1, window) for position in range(first + second))
    per_pair = 4 * config.num_attention_heads * executor.manifest.model.head_size
    assert {operator.flops for operator in _by_kind(profile, "PagedAttention")} == {pairs * per_pair}
    gated = 2 * 2 * config.hidden_size * config.intermediate_size * (first + second)
    assert max(operator.flops for operator in _by_kind(profile, "GatedLinear")) == gated
    logits = _by_kind(profile, "Linear")[-1]
    assert logits.flops == 2 * 2 * config.hidden_size * built.vocab_size  # two logit rows
    assert logits.bytes >= 2 * 4 * config.hidden_size * built.vocab_size  # the weights, once a step
    assert profile[-1].kind == "Sampling"
    assert all(operator.seconds > 0 for operator in profile)


def test_sums_by_kind_keep_the_totals_and_a_profile_ends_once(
    built: BuiltEngine, executor: CpuExecutor, rng: np.random.Generator
) -> None:
    executor.start_profile()
    _run(executor, built, rng, 0, 20)
    profile = executor.profile()
    sums = sum_by_kind(profile)
    assert len(sums) < len(profile)
    assert sum(operator.flops for operator in sums) == sum(operator.flops for operator in profile)
    assert sum(operator.bytes for operator in sums) == sum(operator.bytes for operator in profile)
    assert [operator.seconds for operator in sums] == sorted((o.seconds for o in sums), reverse=True)
    assert executor.profile() == []
    _run(executor, built, rng, 0, 20)
    executor.start_profile()
    assert all(operator.seconds == 0 and operator.flops == 0 for operator in executor.profile())
