"""Target transformers: models without a row in the family table, served as they are, with transformers' own `generate`
as the judge.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.convert.families.table import find_family
from inflight.engine_format.manifest import EngineManifest
from inflight.errors import InflightError
from inflight.files.json_file import read_json_object
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.transformers.executor import TransformersExecutor
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.conftest import SEED_VARIABLE
from tests.models.families.unlisted_models import CONFIGS, VOCAB_SIZE, save_unlisted
from tests.network.support import one_in

pytestmark = pytest.mark.pipeline

LIMITS = {"max_seq_len": 128, "max_batch_size": 4, "max_num_tokens": 23, "tokens_per_block": 16}
# More than a block, and with the prompts more than the small cache of the test of preemption.
TOKENS = 24


@dataclass(frozen=True)
class Built:
    """An engine, and the model that it was built from, in float32."""

    kind: str
    model: PreTrainedModel
    directory: Path
    manifest: EngineManifest

    def open(self, kv_cache_tokens: int = 4 * 128, threads: int = 1) -> TransformersExecutor:
        executor = load_engine(self.directory, threads=threads, kv_cache=KvCacheBudget(tokens=kv_cache_tokens))
        assert isinstance(executor, TransformersExecutor)
        return executor

    def assert_greedy(self, prompt: list[int], tokens: list[int]) -> None:
        """They are what `generate` gives, up to the first tie within rounding."""
        ids = torch.tensor([prompt])
        made = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=len(tokens),
            min_new_tokens=len(tokens),
            do_sample=False,
            eos_token_id=VOCAB_SIZE + 1,
        )[0, len(prompt) :].tolist()
        if tokens == made:
            return
        first = next(place for place, pair in enumerate(zip(tokens, made, strict=True)) if pair[0] != pair[1])
        with torch.no_grad():
            row = self.model(torch.tensor([prompt + tokens[:first]])).logits[0, -1]
        assert row[made[first]] - row[tokens[first]] <= 1e-4 * row.abs().max(), (first, tokens, made)


@pytest.fixture(scope="module", params=one_in(3, CONFIGS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    kind, root = str(request.param), tmp_path_factory.mktemp(str(request.param))
    seed = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 1) + 1
    print(f"repeat with {SEED_VARIABLE}={seed}")
    model = save_unlisted(root / "model", kind, np.random.default_rng(seed), seed)
    manifest = build_engine(root / "model", root / "engine", make_recipe("transformers", **LIMITS))
    return Built(kind, model, root / "engine", manifest)


@pytest.fixture
def executor(built: Built) -> Iterator[TransformersExecutor]:
    opened = built.open()
    yield opened
    opened.close()


def _prompts(rng: np.random.Generator, count: int) -> list[list[int]]:
    return [rng.integers(3, VOCAB_SIZE, n).tolist() for n in rng.integers(1, 60, count)]


def _run(core: EngineCore, requests: list[Request], rng: Any = None) -> dict[str, list[int]]:
    """All tokens by request; with `rng` requests come at random steps."""
    waiting, tokens = list(requests), {request.request_id: list[int]() for request in requests}
    while waiting or core.has_unfinished():
        while waiting and (rng is None or not core.has_unfinished() or rng.random() < 0.2):
            core.add_request(waiting.pop(0))
        for delta in core.step():
            assert isinstance(delta, TokenDelta) and delta.error is None
            tokens[delta.request_id] += delta.token_ids
    core.check_integrity()
    return tokens


def _greedy(name: str, prompt: list[int], count: int = TOKENS) -> Request:
    return Request(name, tuple(prompt), SamplingParams(temperature=0, max_tokens=count, ignore_eos=True))


def test_the_table_lacks_what_is_tried_here(built: Built) -> None:
    config = read_json_object(built.directory / "model" / "config.json", InflightError)
    assert built.kind in ("bloom", "mpt") or find_family(config) is None


def test_greedy_tokens_are_those_of_generate(
    built: Built, executor: TransformersExecutor, rng: np.random.Generator
) -> None:
    (prompt,) = _prompts(rng, 1)
    built.assert_greedy(prompt, _run(EngineCore(executor), [_greedy("one", prompt)])["one"])


def test_sequences_that_come_and_go_do_not_see_each_other(
    built: Built, executor: TransformersExecutor, rng: np.random.Generator
) -> None:
    prompts = _prompts(rng, 7)
    counts = [TOKENS, *rng.integers(1, TOKENS, 6).tolist()]
    requests = [_greedy(str(n), prompt, count) for n, (prompt, count) in enumerate(zip(prompts, counts, strict=True))]
    for name, tokens in _run(EngineCore(executor), requests, rng).items():
        assert len(tokens) == counts[int(name)]
        built.assert_greedy(prompts[int(name)], tokens)


def test_a_preempted_sequence_goes_on_with_its_tokens(built: Built, rng: np.random.Generator) -> None:
    executor = built.open(kv_cache_tokens=160)
    core = EngineCore(executor, SchedulerConfig(policy="max_utilization"))
    prompts = [rng.integers(3, VOCAB_SIZE, n).tolist() for n in rng.integers(20, 40, 4)]
    tokens = _run(core, [_greedy(str(n), prompt) for n, prompt in enumerate(prompts)])
    assert core.stats().preemptions > 0
    core.close()
    for name, found in tokens.items():
        built.assert_greedy(prompts[int(name)], found)


def test_a_seed_gives_the_same_tokens_and_another_seed_others(
    built: Built, executor: TransformersExecutor, rng: np.random.Generator
) -> None:
    (prompt,) = _prompts(rng, 1)
    seed = int(rng.integers(1 << 40))
    runs = []
    for name, value in (("a", seed), ("b", seed), ("c", seed + 1)):
        params = SamplingParams(temperature=1.0, top_p=0.95, seed=value, max_tokens=24, ignore_eos=True)
        runs.append(_run(EngineCore(executor), [Request(name, tuple(prompt), params)])[name])
    assert runs[0] == runs[1] != runs[2]


def test_it_computes_on_as_many_threads_as_it_was_given(built: Built, rng: np.random.Generator) -> None:
    before, executor = torch.get_num_threads(), built.open(threads=2)
    try:
        executor.execute(StepBatch([ScheduledSequence(0, rng.integers(3, VOCAB_SIZE, 5).tolist(), 0, [0])]))
        assert torch.get_num_threads() == 2
    finally:
        # It is this thread's number, and the tests after this one are on it.
        torch.set_num_threads(before)
    executor.close()


def test_equal_prompts_share_no_blocks(built: Built, executor: TransformersExecutor, rng: np.random.Generator) -> None:
    assert built.manifest.kv_cache.prefix_caching is False
    prompt = rng.integers(3, VOCAB_SIZE, 50).tolist()
    core = EngineCore(executor)
    for name in ("first", "second"):
        _run(core, [_greedy(name, prompt, 3)])
    assert core.stats().prefix_hit_tokens == 0 and core.stats().cached_blocks == 0


def test_a_chunk_whose_cache_is_gone_is_computed_from_the_tokens_of_its_blocks(
    built: Built, executor: TransformersExecutor, rng: np.random.Generator
) -> None:
    """The contract of executors: the blocks of a sequence are all that it is known by."""
    tokens = rng.integers(3, VOCAB_SIZE, 45).tolist()
    blocks = rng.permutation(executor.num_blocks)[:3].tolist()
    greedy = RowSampling(temperature=0.0)
    split = int(rng.integers(1, 23))
    executor.execute(StepBatch([ScheduledSequence(0, tokens[:split], 0, blocks)]))
    rest = tokens[split : split + 22]
    _, logits = executor.execute_with_logits(
        StepBatch([ScheduledSequence(1, rest, split, blocks, greedy, sample_last=True)])
    )
    with torch.no_grad():
        expected = built.model(torch.tensor([tokens[: split + 22]])).logits[0, -1].numpy()
    # Mamba's scan in pieces is as far from the whole in transformers itself; other tokens would give other logits.
    assert np.abs(logits[0] - expected).max() < 1e-3 * np.abs(expected).max()


def test_log_probabilities_of_a_prompt_are_those_of_transformers(
    built: Built, executor: TransformersExecutor, rng: np.random.Generator
) -> None:
    tokens = rng.integers(3, VOCAB_SIZE, 20).tolist()
    scored = ScheduledSequence(0, tokens, 0, [3, 1], prompt_targets=tokens[1:], prompt_num_logprobs=0)
    (result,) = executor.execute(StepBatch([scored])).results
    with torch.no_grad():
        expected = torch.log_softmax(built.model(torch.tensor([tokens])).logits[0].float(), -1).numpy()
    np.testing.assert_allclose(
        [entry.logprob for entry in result.prompt], expected[np.arange(19), tokens[1:]], atol=1e-3, rtol=1e-3
    )
