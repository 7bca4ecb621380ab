"""Masks, forced tokens, forks and budgets of reasoning in batches that change at every step: the bits of each alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.api import convert_model
from inflight.convert.options import ConvertOptions
from inflight.runtime import KvCacheBudget, SamplingParams, SchedulerConfig, StructuredOutputs
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.loading.load import load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.structured.compiler import GrammarCompiler
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.engines.random_schemas import random_schema
from tests.models.tiny_tokenizers import random_text

pytestmark = pytest.mark.pipeline

ROOM = 48


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, embedded_model: Path) -> Path:
    place = tmp_path_factory.mktemp("company")
    convert_model(embedded_model, place / "checkpoint", ConvertOptions(dtype="float32"))
    recipe = make_recipe("cpu", max_batch_size=8, max_seq_len=256, tokens_per_block=16)
    build_engine(place / "checkpoint", place / "engine", recipe)
    return place / "engine"


def new_core(engine: Path, tokens: int, config: SchedulerConfig, offload: KvOffload | None = None) -> EngineCore:
    tokenizer = load_tokenizer(engine / "tokenizer")
    executor = load_engine(engine, kv_cache=KvCacheBudget(tokens=tokens))
    return EngineCore(executor, config, grammars=GrammarCompiler(lambda: tokenizer, executor.manifest), offload=offload)


def random_requests(rng: np.random.Generator, engine: Path, count: int) -> list[Request]:
    tokenizer = load_tokenizer(engine / "tokenizer")
    shared = tokenizer.encode(" ".join(random_text(rng) for _ in range(8)))[:40]
    requests = []
    for number in range(count):
        kinds: list[dict[str, Any] | None] = [
            {"json": random_schema(rng)},
            {"regex": "(the quick brown fox |jumps over ){1,3}[a-z]{1,20}"},
            {"choice": ["the quick brown fox", "the lazy dog jumps"]},
            {
                "structural_tag": {
                    "format": {"type": "tag", "begin": "<a>", "content": {"type": "any_text"}, "end": "</a>"}
                }
            },
            None,
        ]
        outputs = kinds[rng.integers(5)]
        opening = str(rng.choice(["<think>", ""]))
        budget = None if rng.random() < 0.2 else int(rng.integers(0, 12))
        reasons = ReasoningFirst(opening, "</think>", "\n</think>", budget)
        params = SamplingParams(
            temperature=float(rng.choice([0.0, 0.9, 1.4])),
            top_k=int(rng.choice([0, 0, 20])),
            top_p=float(rng.choice([1.0, 0.9])),
            presence_penalty=float(rng.choice([0.0, 0.0, 0.4])),
            logprobs=[None, None, 2][rng.integers(3)],
            n=int(rng.choice([1, 1, 3])),
            seed=int(rng.integers(1 << 62)),
            max_tokens=int(rng.integers(4, ROOM)),
            structured_outputs=None if outputs is None else StructuredOutputs.of(outputs),
            reasoning=reasons if rng.random() < 0.5 else None,
        )
        own = tokenizer.encode(random_text(rng))[:10]
        prompt = (*shared[: int(rng.choice([0, 40]))], *own, 5)
        requests.append(Request(str(number), prompt, params, end_token_ids=(0,), priority=int(rng.integers(2))))
    return requests


def play(core: EngineCore, requests: Sequence[Request], rng: np.random.Generator | None) -> dict[Any, list[Any]]:
    """Of each sequence its tokens, log probabilities and end. With `rng` requests come between any two steps, else each
    one when the one before it has ended."""
    waiting = list(requests)
    found: dict[Any, list[Any]] = defaultdict(list)
    while waiting or core.has_unfinished():
        arriving = int(not core.has_unfinished()) if rng is None else int(rng.integers(0, 3))
        for request in waiting[:arriving]:
            core.add_request(request)
        del waiting[:arriving]
        for delta in core.step() if core.has_unfinished() else ():
            of = found[delta.request_id, delta.index]
            of += delta.token_ids
            of += [(each.token_id, each.logprob, each.rank, each.top) for each in delta.logprobs or ()]
            if delta.finish_reason is not None:
                of.append((delta.finish_reason, delta.error))
    core.close()
    return dict(found)


@pytest.mark.parametrize("swaps", [False, True])
def test_each_is_alone_in_any_company(engine: Path, rng: np.random.Generator, swaps: bool) -> None:
    for cache_tokens in (288, 256, 256):
        requests = random_requests(rng, engine, 30)
        alone = play(new_core(engine, 4096, SchedulerConfig(enable_prefix_caching=False)), requests, None)
        tight = SchedulerConfig(policy="max_utilization", max_num_tokens=int(rng.integers(8, 40)))
        core = new_core(engine, cache_tokens, tight, KvOffload.of(None, 1 << 26) if swaps else None)
        order = [requests[place] for place in rng.permutation(len(requests))]
        assert play(core, order, rng) == alone
        stats = core.stats()
        swapped = not swaps or (stats.offload is not None and stats.offload.blocks_read > 0)
        if stats.preemptions > 0 and stats.prefix_hit_tokens > 0 and swapped:
            return
    pytest.fail("no draw had a preemption and a prefix hit")
