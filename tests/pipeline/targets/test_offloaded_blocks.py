"""Blocks of real engines that leave the KV cache and come back: the same bits as if they had stayed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.errors import EngineError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.kv_cache.budget import KvCacheBudget
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.loading.load import load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.engines.built_engine import BuiltEngine, build_random_engine
from tests.pipeline.test_same_tokens import answers, random_requests

pytestmark = pytest.mark.pipeline

MAX_SEQ_LEN = 160
LIMITS: dict[str, Any] = {
    "max_batch_size": 16,
    "max_seq_len": MAX_SEQ_LEN,
    "max_num_tokens": 96,
    "tokens_per_block": 16,
}
# Every layout of the cache, and latent rows.
CACHES = [("llama", "float32"), ("llama", "bfloat16"), ("gemma2", "fp8"), ("llama", "int8"), ("llama", "int4")]


def _built(root: Path, rng: np.random.Generator, target: str) -> BuiltEngine:
    if target == "reference":
        return build_random_engine(root, "llama", torch.float32, target="reference", **LIMITS)
    family, cache = ("deepseek_v3", "float32") if target == "latent" else CACHES[rng.integers(len(CACHES))]
    print(f"{family} with a cache of {cache}")
    return build_random_engine(root, family, torch.float32, kv_cache_dtype=cache, **LIMITS)


@pytest.mark.parametrize("target", ["cpu", "latent", "reference"])
def test_a_copy_of_a_block_goes_on_as_the_block_itself(target: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """In other blocks of another process' pool of another size."""
    built = _built(tmp_path, rng, target)
    first, second = (load_engine(built.directory, threads=1, kv_cache=KvCacheBudget(tokens=n)) for n in (160, 320))
    prompt = list(built.random_prompt(rng, 65))
    tables = [rng.permutation(executor.num_blocks)[:5].tolist() for executor in (first, second)]
    sampling = RowSampling(num_logprobs=3)

    def last(table: list[int]) -> StepBatch:
        return StepBatch([ScheduledSequence(0, prompt[64:], 64, table, sampling, sample_last=True)])

    executors: Any = first, second
    first.execute(StepBatch([ScheduledSequence(0, prompt[:64], 0, tables[0])]))
    for source, destination in zip(*(table[:4] for table in tables), strict=True):
        copy = executors[0].copy_out(source)
        executors[1].copy_in(destination, copy)
        assert executors[1].copy_out(destination) == copy
    assert executors[0].copies_of == executors[1].copies_of
    results = [executor.execute(last(table)).results for executor, table in zip(executors, tables, strict=True)]
    assert results[0] == results[1]
    for executor in executors:
        executor.close()
    if target != "reference":
        with pytest.raises(EngineError, match="closed"):
            executors[0].copy_out(0)


def _serve(
    built: BuiltEngine, requests: Sequence[Request], config: SchedulerConfig, offload: KvOffload | None, tokens: int
) -> tuple[dict[tuple[str, int], str], CoreStats]:
    executor = load_engine(built.directory, threads=2, kv_cache=KvCacheBudget(tokens=tokens))
    core = EngineCore(executor, config, offload=offload)
    try:
        return answers(core, requests), core.stats()
    finally:
        core.close()


def test_answers_are_the_same_bits_from_a_tiny_cache_with_files_as_from_a_large_one(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    built = _built(tmp_path, rng, "cpu")
    requests = random_requests(rng, built, 24)
    plenty, tight = 16 * MAX_SEQ_LEN, MAX_SEQ_LEN + 32
    expected, _ = _serve(built, requests, SchedulerConfig(), None, plenty)
    files = KvOffload(tmp_path / "files")
    for config in (SchedulerConfig(), SchedulerConfig(policy="max_utilization")):
        found, stats = _serve(built, requests, config, files, tight)
        assert found == expected
    # A restart: all that a prompt can find is there.
    again, stats = _serve(built, requests, SchedulerConfig(), files, plenty)
    assert again == expected
    findable = sum((len(each.prompt_token_ids) - 1) // 16 * 16 for each in requests if not each.params.prompt_logprobs)
    assert stats.prefix_hit_tokens >= findable / 2 > 0
