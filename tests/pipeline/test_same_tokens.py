"""A request's tokens and log probabilities do not depend on what the scheduler does with it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.stats import CoreStats
from inflight.runtime.executors.base import overlaps_steps
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.kv_cache.budget import KvCacheBudget
from inflight.runtime.loading.load import load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.engines.built_engine import BuiltEngine, build_random_engine, fresh_rng
from tests.engines.overlapping import Overlapping
from tests.network.support import chosen, some_of

pytestmark = pytest.mark.pipeline

MAX_SEQ_LEN = 160
CACHES = [("llama", "float32"), ("llama", "int8"), ("gemma2", "float32"), ("gemma2", "fp8"), ("llama", "int4")]


@pytest.fixture(scope="module", params=[CACHES[0], *some_of(2, CACHES[1:])])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """float32 weights; the second parameter is the type of the KV cache."""
    family, cache = chosen(request.param, fresh_rng())
    print(family, cache)
    limits: dict[str, Any] = {
        "max_batch_size": 16,
        "max_seq_len": MAX_SEQ_LEN,
        "max_num_tokens": 96,
        "tokens_per_block": 16,
    }
    root = tmp_path_factory.mktemp("engine")
    return build_random_engine(root, family, torch.float32, kv_cache_dtype=cache, **limits)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


def random_requests(rng: np.random.Generator, built: BuiltEngine, count: int) -> list[Request]:
    """Prompts of which many begin alike, and every kind of sampling."""
    shared = [built.random_prompt(rng, int(rng.integers(20, 60))) for _ in range(3)]
    requests = []
    for index in range(count):
        prefix = shared[int(rng.integers(3))][: int(rng.integers(0, 60))]
        params = SamplingParams(
            temperature=float(rng.choice([0.0, 0.8, 1.5])),
            top_k=int(rng.choice([0, 20])),
            top_p=float(rng.choice([1.0, 0.9])),
            typical_p=float(rng.choice([1.0, 0.8])),
            top_n_sigma=float(rng.choice([0.0, 2.0])),
            repetition_penalty=float(rng.choice([1.0, 1.2])),
            frequency_penalty=float(rng.choice([0.0, 0.3])),
            watermark_delta=float(rng.choice([0.0, 3.0])),
            seed=int(rng.integers(2**31)),
            max_tokens=int(rng.integers(1, 60)),
            n=int(rng.choice([1, 1, 2])),
            logprobs=3,
            prompt_logprobs=int(rng.integers(3)) if rng.random() < 0.3 else None,
            prompt_logprobs_start=int(rng.integers(60)),
        )
        requests.append(Request(str(index), prefix + built.random_prompt(rng, int(rng.integers(1, 30))), params))
    return requests


def answers(core: EngineCore, requests: Sequence[Request]) -> dict[tuple[str, int], str]:
    """Every bit of what a request gets, by id and index."""
    for request in requests:
        core.add_request(request)
    news: dict[tuple[str, int], list[object]] = defaultdict(list)
    while core.has_unfinished():
        for delta in core.step():
            result = (delta.token_ids, delta.logprobs, delta.prompt_logprobs, delta.finish_reason, delta.error)
            news[delta.request_id, delta.index].append(result)
    return {key: repr(results) for key, results in news.items()}


def serve(
    built: BuiltEngine,
    requests: Sequence[Request],
    config: SchedulerConfig,
    threads: int,
    cache_tokens: int,
    *,
    overlaps: bool = False,
) -> tuple[dict[tuple[str, int], str], CoreStats]:
    executor = load_engine(built.directory, threads=threads, kv_cache=KvCacheBudget(tokens=cache_tokens))
    core = EngineCore(Overlapping(executor) if overlaps else executor, config)
    try:
        return answers(core, requests), core.stats()
    finally:
        core.close()


def test_answers_are_the_same_bits_alone_and_in_every_kind_of_company(
    built: BuiltEngine, rng: np.random.Generator
) -> None:
    requests = random_requests(rng, built, 24)
    executor = load_engine(built.directory, threads=1)
    alone: dict[tuple[str, int], str] = {}
    for request in requests:
        alone |= answers(EngineCore(executor, SchedulerConfig(enable_prefix_caching=False)), [request])
    executor.close()

    plenty, tight = 16 * MAX_SEQ_LEN, MAX_SEQ_LEN + 32
    in_company, stats = serve(built, requests, SchedulerConfig(), 2, plenty)
    assert in_company == alone
    assert stats.prefix_hit_tokens > 0

    small_chunks = SchedulerConfig(enable_prefix_caching=False, max_num_tokens=17)
    assert serve(built, requests, small_chunks, 2, plenty, overlaps=True)[0] == alone

    evicting, stats = serve(built, requests, SchedulerConfig(policy="max_utilization"), 1, tight, overlaps=True)
    assert evicting == alone
    assert stats.preemptions > 0


def disordered(core: EngineCore, requests: Sequence[Request], rng: np.random.Generator) -> dict[tuple[str, int], str]:
    """As `answers` of requests that come while others run, others that are cancelled, and a caller that stays away now
    and then."""
    news: dict[tuple[str, int], list[object]] = defaultdict(list)
    waiting, strangers = list(requests), 0
    while waiting or core.has_unfinished():
        while waiting and (not core.has_unfinished() or rng.random() < 0.1):
            core.add_request(waiting.pop(0))
        if rng.random() < 0.1:
            core.cancel(f"stranger {strangers}")
            strangers += 1
            core.add_request(Request(f"stranger {strangers}", (1, 2, 3), SamplingParams(max_tokens=9)))
        if rng.random() < 0.05:
            time.sleep(rng.random() * 1e-3)
        for delta in core.step():
            result = (delta.token_ids, delta.logprobs, delta.prompt_logprobs, delta.finish_reason, delta.error)
            news[delta.request_id, delta.index].append(result)
    core.check_integrity()
    return {key: repr(results) for key, results in news.items() if key[0].isdigit()}


def test_answers_of_steps_that_begin_while_the_caller_is_away_are_those_of_one_thread(
    built: BuiltEngine, rng: np.random.Generator
) -> None:
    """With one thread steps come one after the other."""
    requests = []
    for request in random_requests(rng, built, 16):
        # Of the other half, how long it is says when it ends.
        stops = tuple(map(int, rng.integers(built.vocab_size, size=built.vocab_size // 20 * int(rng.integers(2)))))
        requests.append(replace(request, params=replace(request.params, stop_token_ids=stops)))
    plenty = 16 * MAX_SEQ_LEN
    expected = serve(built, requests, SchedulerConfig(), 1, plenty)[0]
    cases = ((2, SchedulerConfig(), plenty), (3, SchedulerConfig(policy="max_utilization"), MAX_SEQ_LEN + 32))
    for threads, config, cache_tokens in cases:
        executor = load_engine(built.directory, threads=threads, kv_cache=KvCacheBudget(tokens=cache_tokens))
        assert overlaps_steps(executor) is executor
        core = EngineCore(executor, config)
        try:
            assert disordered(core, requests, rng) == expected
        finally:
            core.close()


def _decode(token: int, start: int, follows: int = -1) -> StepBatch:
    blocks = list(range(MAX_SEQ_LEN // 16))
    return StepBatch([ScheduledSequence(0, [token], start, blocks, RowSampling(), sample_last=True, follows=follows)])


def test_a_step_that_was_begun_is_forgotten_and_computed_again(built: BuiltEngine, rng: np.random.Generator) -> None:
    executor = load_engine(built.directory, threads=2)
    assert isinstance(executor, CpuExecutor)
    tokens = [int(rng.integers(built.vocab_size))]
    for start in range(20):
        tokens += [token for token in executor.execute(_decode(tokens[-1], start)).token_ids if token is not None]
    again = tokens[:1]
    under_way = executor.submit(_decode(again[0], 0))
    for start in range(20):
        following = executor.submit(_decode(0, start + 1, follows=0))
        again += [token for token in executor.collect(under_way).token_ids if token is not None]
        under_way = following
        if start % 3 == 0:
            executor.revoke()
            under_way = executor.submit(_decode(again[-1], start + 1))
    assert again == tokens
    executor.close()  # while a step is under way
