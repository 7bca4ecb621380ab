"""An engine of target `reference`: built, loaded, and run through the paged contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.recipe import BuildRecipe
from inflight.errors import EngineError
from inflight.runtime.engine_core import EngineCore
from inflight.runtime.executors.reference import ReferenceExecutor
from inflight.runtime.load import KvCacheBudget, load_engine
from inflight.runtime.request import Request
from inflight.runtime.sampling_params import SamplingParams
from inflight.runtime.step import RowSampling, ScheduledSequence, StepBatch
from tests.models import random_shape
from tests.network.paging import scattered_sequences
from tests.network.support import FAMILIES, Case, make_case, random_chunks, relative_error

pytestmark = pytest.mark.network

RECIPE = BuildRecipe(
    target="reference", max_seq_len=112, max_batch_size=4, max_num_tokens=48, max_logit_rows=48, tokens_per_block=16
)
GREEDY = RowSampling(temperature=0.0, num_logprobs=2)


@pytest.fixture
def case(tmp_path: Path, rng: np.random.Generator, seed: int) -> Case:
    dtype = torch.bfloat16 if rng.random() < 0.5 else torch.float32
    return make_case(tmp_path, random_shape(rng, str(rng.choice(FAMILIES))), seed, dtype)


@pytest.fixture
def executor(case: Case, tmp_path: Path) -> Iterator[ReferenceExecutor]:
    build_engine(case.checkpoint.directory, tmp_path / "engine", RECIPE)
    loaded = load_engine(tmp_path / "engine", threads=2, kv_cache=KvCacheBudget(tokens=4 * 112))
    assert isinstance(loaded, ReferenceExecutor)
    yield loaded
    loaded.close()


def test_ragged_steps_over_scattered_blocks_give_the_logits_of_transformers(
    case: Case, executor: ReferenceExecutor, rng: np.random.Generator
) -> None:
    sequences, _ = scattered_sequences(rng, case.checkpoint.config.vocab_size, 4, 112, 16)
    expected = [case.expected(sequence.token_ids) for sequence in sequences]
    pending = [random_chunks(rng, sequence.token_ids) for sequence in sequences]
    while any(pending):
        chosen = [index for index in rng.permutation(4) if pending[index]]
        scheduled = []
        for index in chosen:
            chunk, sequence = pending[index].pop(0), sequences[index]
            table = sequence.blocks.tolist()
            scheduled.append(
                ScheduledSequence(int(index), chunk.tolist(), sequence.done, table, GREEDY, sample_last=True)
            )
            sequence.done += len(chunk)
        output, logits = executor.execute_with_logits(StepBatch(scheduled))
        for index, result, row in zip(chosen, output.results, logits, strict=True):
            oracle = expected[index][sequences[index].done - 1]
            assert relative_error(row, oracle) < 1e-4
            assert result.sampled is not None and result.sampled.token_id == int(row.argmax())
            assert result.sampled.top[0][0] == result.sampled.token_id


def test_prompt_targets_get_the_log_probabilities_of_transformers(
    case: Case, executor: ReferenceExecutor, rng: np.random.Generator
) -> None:
    tokens = rng.integers(0, case.checkpoint.config.vocab_size, 20).tolist()
    scored = ScheduledSequence(0, tokens, 0, [3, 1], prompt_targets=tokens[1:], prompt_num_logprobs=0)
    (result,) = executor.execute(StepBatch([scored])).results
    expected = torch.log_softmax(torch.from_numpy(case.expected(tokens)), -1).numpy()
    assert result.sampled is None
    assert [entry.token_id for entry in result.prompt] == tokens[1:]
    np.testing.assert_allclose(
        [entry.logprob for entry in result.prompt], expected[np.arange(19), tokens[1:]], atol=1e-3, rtol=1e-3
    )


def test_greedy_tokens_through_the_scheduler_are_those_of_transformers(
    case: Case, executor: ReferenceExecutor, rng: np.random.Generator
) -> None:
    prompts = [rng.integers(3, case.checkpoint.config.vocab_size, n).tolist() for n in rng.integers(1, 40, 4)]
    core = EngineCore(executor)
    for number, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True)
        core.add_request(Request(str(number), tuple(prompt), params))
    tokens: dict[str, list[int]] = {str(number): [] for number in range(len(prompts))}
    while core.has_unfinished():
        for delta in core.step():
            tokens[delta.request_id] += delta.token_ids
    core.check_integrity()
    for number, prompt in enumerate(prompts):
        _assert_greedy(case, prompt, tokens[str(number)])


def _assert_greedy(case: Case, prompt: list[int], tokens: list[int]) -> None:
    """Every token is transformers' most likely one, or ties with it to within rounding."""
    logits = case.expected(prompt + tokens)[len(prompt) - 1 : -1]
    assert len(tokens) == 64
    for row, token in zip(logits, tokens, strict=True):
        assert row.max() - row[token] <= 1e-4 * np.abs(row).max()


def test_a_batch_that_breaks_a_limit_is_refused(executor: ReferenceExecutor) -> None:
    with pytest.raises(EngineError, match="block table"):
        executor.execute(StepBatch([ScheduledSequence(0, [1] * 20, 0, [0], GREEDY, sample_last=True)]))


def test_a_closed_engine_says_so(executor: ReferenceExecutor) -> None:
    executor.close()
    executor.close()
    with pytest.raises(EngineError, match="closed"):
        executor.execute(StepBatch([ScheduledSequence(0, [1], 0, [0], GREEDY, sample_last=True)]))


def test_two_builds_are_the_same_bytes(case: Case, tmp_path: Path) -> None:
    manifests = [build_engine(case.checkpoint.directory, tmp_path / name, RECIPE) for name in ("one", "two")]
    assert manifests[0] == manifests[1]
    assert set(manifests[0].files) >= {"network.onnx", "rank0.safetensors", "rope.cos.table", "rope.sin.table"}
