"""The CPU executor: the same bits whatever the company, the definition of sampling, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.engine_format.manifest import MANIFEST_NAME
from inflight.engine_format.manifest_file import with_digest
from inflight.errors import EngineError
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.kv_cache.budget import KvCacheBudget
from inflight.runtime.loading.load import load_engine
from inflight.runtime.sampling.reference import sample_row
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch
from tests.engines.built_engine import BuiltEngine, build_random_engine
from tests.pipeline.stepping import Run, run_all

pytestmark = pytest.mark.pipeline

MAX_SEQ_LEN = 160


@pytest.fixture(
    scope="module",
    params=[("qwen3", torch.float32), ("llama", torch.bfloat16), ("mistral", torch.float16)],
    ids=["qwen3-float32", "llama-bfloat16", "mistral-float16"],
)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """An engine at limits so small that prompts are cut in chunks; every row may have logits."""
    family, dtype = request.param
    limits: dict[str, Any] = {"max_batch_size": 65, "max_num_tokens": 128, "max_logit_rows": 128}
    root = tmp_path_factory.mktemp("engine")
    return build_random_engine(root, family, dtype, max_seq_len=MAX_SEQ_LEN, tokens_per_block=16, **limits)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFLIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def opened(built: BuiltEngine) -> Iterator[Callable[[int], CpuExecutor]]:
    """Open the engine with a number of threads; closed after the test."""
    executors: list[CpuExecutor] = []

    def open_engine(threads: int = 2) -> CpuExecutor:
        executor = load_engine(built.directory, threads=threads, kv_cache=KvCacheBudget(tokens=65 * MAX_SEQ_LEN))
        assert isinstance(executor, CpuExecutor)
        executors.append(executor)
        return executor

    yield open_engine
    for executor in executors:
        executor.close()


def strangers(rng: np.random.Generator, built: BuiltEngine, count: int) -> list[Run]:
    """Sequences of random lengths with all kinds of sampling."""
    kinds = [
        RowSampling(),
        RowSampling(temperature=1.3, top_k=5, seed=3, num_logprobs=2),
        RowSampling(temperature=0.8, top_p=0.9, seed=9, repetition_penalty=1.2),
        RowSampling(temperature=1.0, min_p=0.05, frequency_penalty=0.5, bias=((4, 2.0), (5, -np.inf))),
        RowSampling(temperature=1.1, typical_p=0.5, seed=4),
        RowSampling(temperature=2.0, top_n_sigma=1.0, seed=5),
        RowSampling(temperature=1.0, watermark_delta=2.0, seed=6),
    ]
    return [
        Run(built.random_prompt(rng, int(rng.integers(1, 50))), kinds[index % len(kinds)], int(rng.integers(1, 30)))
        for index in range(count)
    ]


@pytest.mark.parametrize(
    "sampling",
    [RowSampling(num_logprobs=5), RowSampling(temperature=0.9, top_p=0.95, typical_p=0.9, seed=77, num_logprobs=5)],
)
def test_a_sequence_gets_the_same_bits_alone_in_company_in_any_chunks_and_on_any_number_of_threads(
    built: BuiltEngine, opened: Callable[..., CpuExecutor], rng: np.random.Generator, sampling: RowSampling
) -> None:
    alone = Run(built.random_prompt(rng, 60), sampling, 24, score_prompt=True)
    run_all(opened(1), [alone], rng, lambda: 128)
    cases: list[tuple[int, int, Callable[[], int]]] = [
        (1, 64, lambda: 7),
        (2, 64, lambda: int(rng.integers(1, 129))),
        (2, 5, lambda: 1),
        (3, 0, lambda: int(rng.integers(1, 40))),
    ]
    for threads, company, chunk in cases:
        again = Run(alone.prompt, sampling, 24, score_prompt=True)
        run_all(opened(threads), [*strangers(rng, built, company), again], rng, chunk)
        assert repr(again.results) == repr(alone.results)
        assert repr(again.prompt_results) == repr(alone.prompt_results)


def test_the_step_samples_as_the_definition_does(
    built: BuiltEngine, opened: Callable[..., CpuExecutor], rng: np.random.Generator
) -> None:
    executor = opened()
    prompt = built.random_prompt(rng, 30)
    for _ in range(20):
        sampling = RowSampling(
            temperature=float(rng.choice([0.0, 0.5, 1.0, 3.0])),
            top_k=int(rng.choice([0, 3, 50])),
            top_p=float(rng.choice([1.0, 0.7])),
            min_p=float(rng.choice([0.0, 0.02])),
            typical_p=float(rng.choice([1.0, 0.5])),
            top_n_sigma=float(rng.choice([0.0, 1.5])),
            repetition_penalty=float(rng.choice([1.0, 1.5])),
            presence_penalty=0.5,
            watermark_delta=float(rng.choice([0.0, 4.0])),
            frequency_penalty=0.25,
            seed=int(rng.integers(2**63)),
            num_logprobs=4,
            bias=((int(rng.integers(built.vocab_size)), 3.0),),
        )
        banned = (int(rng.integers(built.vocab_size)),)
        sequence = ScheduledSequence(
            0, prompt, 0, (0, 1), sampling, True, prompt_length=20, history=prompt, banned=banned
        )
        output, logits = executor.execute_with_logits(StepBatch([sequence]))
        result = output.results[0].sampled
        expected = sample_row(logits[0], sampling, len(prompt), prompt, 20, banned, previous=prompt[-1])
        assert result is not None
        assert (result.token_id, result.rank) == (expected.token_id, expected.rank)
        assert result.logprob == pytest.approx(expected.logprob, abs=1e-6)


def test_a_batch_that_breaks_a_limit_is_named_and_leaves_the_cache_as_it_was(
    built: BuiltEngine, opened: Callable[..., CpuExecutor], rng: np.random.Generator
) -> None:
    executor = opened()
    prompt = built.random_prompt(rng, 40)
    good = ScheduledSequence(0, prompt, 0, (0, 1, 2), RowSampling(num_logprobs=2), True)
    executor.execute(StepBatch([good]))
    bad = [
        (replace(good, token_ids=prompt * 4), "tokens"),
        (replace(good, block_table=(0, 1)), "block table"),
        (replace(good, block_table=(0, 1, 10**6)), "block"),
        (replace(good, token_ids=(*prompt[:-1], built.vocab_size)), "vocabulary"),
        (replace(good, start=MAX_SEQ_LEN), "max_seq_len"),
    ]
    for sequence, message in bad:
        with pytest.raises(EngineError, match=message):
            executor.execute(StepBatch([sequence]))
    with pytest.raises(EngineError, match="66 sequences"):
        executor.execute(StepBatch([replace(good, slot=slot, token_ids=(1,)) for slot in range(66)]))
    last = replace(good, token_ids=prompt[-1:], start=len(prompt) - 1)
    assert repr(executor.execute(StepBatch([last]))) == repr(executor.execute(StepBatch([good])))


def test_a_closed_engine_refuses_steps_and_closes_twice(opened: Callable[..., CpuExecutor]) -> None:
    executor = opened()
    executor.close()
    executor.close()
    with pytest.raises(EngineError, match="closed"):
        executor.execute(StepBatch([]))


def test_an_engine_for_another_cpu_version_or_with_a_flipped_byte_is_refused(
    built: BuiltEngine, tmp_path: Path, rng: np.random.Generator
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(built.directory, engine)
    manifest = json.loads((engine / MANIFEST_NAME).read_text())

    def refused(message: str, **changes: object) -> None:
        (engine / MANIFEST_NAME).write_text(json.dumps(with_digest({**manifest, **changes})))
        with pytest.raises(EngineError, match=message):
            load_engine(engine)

    own = manifest["target_facts"]
    features = [{**variant, "required_features": ["avx1024"]} for variant in own["variants"]]
    refused("needs avx1024, which this CPU lacks", target_facts={**own, "variants": features})
    foreign = [{**variant, "triple": "riscv64-linux-gnu"} for variant in own["variants"]]
    refused("is for riscv64 linux", target_facts={**own, "variants": foreign})
    refused("target_facts.*colour", target_facts={**own, "colour": "red"})
    refused("target_facts.variants.*file", target_facts={**own, "variants": [{**own["variants"][0], "file": 1}]})
    refused(r"no digest of other\.so", target_facts={**own, "variants": [{**own["variants"][0], "file": "other.so"}]})
    refused(r"no digest of other\.weights", target_facts={**own, "weights_file": "other.weights"})
    refused("interface 999 of the cpu target", target_abi=999)
    refused("built by inflight 0.0.0", inflight_version="0.0.0")
    needed = manifest["memory"]["workspace_bytes"]
    memory = {**manifest["memory"], "workspace_bytes": needed - 64}
    refused(f"workspace_bytes is {needed - 64:,} and not {needed:,}", memory=memory)
    half = manifest["kv_cache"]["bytes_per_block"] // 2
    refused(f"bytes_per_block is {half:,}", kv_cache={**manifest["kv_cache"], "bytes_per_block": half})
    refused("vocab_size is 1 and", model={**manifest["model"], "vocab_size": 1})
    weights = bytearray((engine / "rank0.weights").read_bytes())
    weights[int(rng.integers(len(weights)))] ^= 1
    (engine / "rank0.weights").write_bytes(weights)
    refused("damaged")
