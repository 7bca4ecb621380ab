"""What every executor must do, whatever its target: the contract of StepBatch, transformers as the judge."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
import torch

from inflight.build.engine import build_engine
from inflight.build.registry import make_recipe
from inflight.errors import EngineError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.base import Executor, copies_blocks, overlaps_steps
from inflight.runtime.executors.tensorrt.device import require_gpu
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch, StepOutput
from tests.conftest import SEED_VARIABLE
from tests.models.random_models import random_shape
from tests.network.paging import scattered_sequences
from tests.network.support import ALL_FAMILIES, FAMILIES, Case, make_case, random_chunks, relative_error

pytestmark = pytest.mark.pipeline

SEQUENCES = 4
LIMITS = {"max_batch_size": SEQUENCES, "max_num_tokens": 48, "max_logit_rows": 48}
TOKENS_PER_BLOCK = 16
TARGETS = [
    *("reference", "cpu", "cuda-interpreted"),
    *("tensorrt", "tensorrt-interpreted-slots", "tensorrt-interpreted-blocks"),
]
GREEDY = RowSampling(temperature=0.0, num_logprobs=2)


class WithLogits(Executor, Protocol):
    def execute_with_logits(self, batch: StepBatch) -> tuple[StepOutput, npt.NDArray[np.float32]]: ...


@dataclass(frozen=True)
class Built:
    """An engine, and what it was built from."""

    target: str
    case: Case
    directory: Path

    @property
    def length(self) -> int:
        """Of the longest sequence. Triton's interpreter takes seconds for a step."""
        return 48 if self.target == "cuda-interpreted" else 112

    @property
    def new_tokens(self) -> int:
        """As many as are generated for a prompt."""
        return 4 if self.target == "cuda-interpreted" else 64

    def open(self) -> Any:
        if self.target == "cuda-interpreted":
            from tests.oracles.gpu.interpreted_launches import open_interpreted

            return open_interpreted(self.directory, SEQUENCES * self.length // TOKENS_PER_BLOCK)
        if self.target.startswith("tensorrt-interpreted"):
            from inflight.build.targets.tensorrt.lowering.cache_layout import SLOTS, BlockLayout
            from tests.oracles.interpreted_executor import InterpretedExecutor

            if self.target.endswith("slots"):
                return InterpretedExecutor(self.directory, self.case.checkpoint, SEQUENCES, SLOTS)
            blocks = SEQUENCES * self.length // TOKENS_PER_BLOCK
            return InterpretedExecutor(self.directory, self.case.checkpoint, blocks, BlockLayout(TOKENS_PER_BLOCK))
        return load_engine(self.directory, threads=2, kv_cache=KvCacheBudget(tokens=SEQUENCES * self.length))


@pytest.fixture(scope="module", params=TARGETS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Of a fresh model in float32, which all targets compute alike; the reference does so with weights of any type."""
    target = str(request.param)
    _skip_without(target)
    seed = int(os.environ.get(SEED_VARIABLE, "0")) or secrets.randbelow(2**31 - 1) + 1
    print(f"repeat with {SEED_VARIABLE}={seed}")
    rng, root = np.random.default_rng(seed), tmp_path_factory.mktemp(target)
    dtype = torch.bfloat16 if target == "reference" and rng.random() < 0.5 else torch.float32
    families = FAMILIES if target.startswith("tensorrt") else ALL_FAMILIES
    shape = random_shape(rng, str(rng.choice(families)))
    if target == "cuda-interpreted":
        shape = replace(shape, vocab_size=int(rng.integers(50, 150)))
    built = Built(target, make_case(root, shape, seed, dtype), root / "engine")
    flags: dict[str, Any] = {"target": target.split("-")[0], "tokens_per_block": TOKENS_PER_BLOCK, **LIMITS}
    with _without_code(target):
        build_engine(built.case.checkpoint.directory, root / "engine", make_recipe(**flags, max_seq_len=built.length))
    return built


def _without_code(target: str) -> AbstractContextManager[None]:
    if target != "cuda-interpreted":
        return nullcontext()
    from tests.oracles.gpu.interpreted_launches import uncompiled

    return uncompiled()


def _skip_without(target: str) -> None:
    if target.startswith("cuda"):
        pytest.importorskip("triton", reason="pip install 'inflight-llm[cuda-compile]'")
    if target.startswith("tensorrt"):
        pytest.importorskip("tensorrt_rtx", reason="pip install 'inflight-llm[tensorrt-rtx]'")
    if target == "tensorrt":
        try:
            require_gpu()
        except EngineError as error:
            pytest.skip(error.message)


@pytest.fixture
def case(built: Built) -> Case:
    return built.case


@pytest.fixture
def length(built: Built) -> int:
    return built.length


@pytest.fixture
def new_tokens(built: Built) -> int:
    return built.new_tokens


@pytest.fixture
def executor(built: Built) -> Iterator[WithLogits]:
    loaded = built.open()
    yield loaded
    loaded.close()


def test_ragged_steps_over_scattered_blocks_give_the_logits_of_transformers(
    case: Case, executor: WithLogits, length: int, rng: np.random.Generator
) -> None:
    size = executor.manifest.kv_cache.tokens_per_block
    sequences, _ = scattered_sequences(rng, case.checkpoint.config.vocab_size, SEQUENCES, length, size)
    expected = [case.expected(sequence.token_ids) for sequence in sequences]
    pending = [random_chunks(rng, sequence.token_ids) for sequence in sequences]
    while any(pending):
        chosen = [index for index in rng.permutation(SEQUENCES) if pending[index]]
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
    case: Case, executor: WithLogits, rng: np.random.Generator
) -> None:
    tokens = rng.integers(0, case.checkpoint.config.vocab_size, 20).tolist()
    table = [3, 1][: -(-len(tokens) // executor.manifest.kv_cache.tokens_per_block)]
    scored = ScheduledSequence(0, tokens, 0, table, prompt_targets=tokens[1:], prompt_num_logprobs=0)
    (result,) = executor.execute(StepBatch([scored])).results
    expected = torch.log_softmax(torch.from_numpy(case.expected(tokens)), -1).numpy()
    assert result.sampled is None
    assert [entry.token_id for entry in result.prompt] == tokens[1:]
    np.testing.assert_allclose(
        [entry.logprob for entry in result.prompt], expected[np.arange(19), tokens[1:]], atol=1e-3, rtol=1e-3
    )


def test_greedy_tokens_through_the_scheduler_are_those_of_transformers(
    case: Case, executor: WithLogits, new_tokens: int, rng: np.random.Generator
) -> None:
    prompts = [rng.integers(3, case.checkpoint.config.vocab_size, n).tolist() for n in rng.integers(1, 40, SEQUENCES)]
    core = EngineCore(executor)
    for number, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        core.add_request(Request(str(number), tuple(prompt), params))
    tokens: dict[str, list[int]] = {str(number): [] for number in range(len(prompts))}
    while core.has_unfinished():
        for delta in core.step():
            tokens[delta.request_id] += delta.token_ids
    core.check_integrity()
    for number, prompt in enumerate(prompts):
        assert len(tokens[str(number)]) == new_tokens
        _assert_greedy(case, prompt, tokens[str(number)])


def test_a_prompt_that_came_before_is_read_from_its_blocks(
    case: Case,
    executor: WithLogits,
    length: int,
    new_tokens: int,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = executor.manifest.kv_cache.tokens_per_block
    if size >= length:
        pytest.skip("a block is a whole sequence, which nobody shares")
    prompt = rng.integers(3, case.checkpoint.config.vocab_size, 2 * size + 5).tolist()
    computed: list[int] = []
    name = "submit" if overlaps_steps(executor) is not None else "execute"
    begin = getattr(executor, name)

    def counting(batch: StepBatch) -> Any:
        computed.append(batch.num_tokens)
        return begin(batch)

    monkeypatch.setattr(executor, name, counting)
    core = EngineCore(executor)
    # Where a block can be copied, all but the last token of the prompt is found.
    left = 1 if copies_blocks(executor) is not None else 5
    for name, expected in (("first", len(prompt)), ("second", left)):
        computed.clear()
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        core.add_request(Request(name, tuple(prompt), params))
        tokens: list[int] = []
        while core.has_unfinished():
            tokens += [token for delta in core.step() for token in delta.token_ids]
        _assert_greedy(case, prompt, tokens)
        assert sum(computed) - (new_tokens - 1) == expected


def _assert_greedy(case: Case, prompt: list[int], tokens: list[int]) -> None:
    """Every token is transformers' most likely one, or ties with it to within rounding."""
    logits = case.expected(prompt + tokens)[len(prompt) - 1 : -1]
    for row, token in zip(logits, tokens, strict=True):
        assert row.max() - row[token] <= 1e-4 * np.abs(row).max()


def test_a_batch_that_breaks_a_limit_is_refused(executor: WithLogits) -> None:
    short = [0] if executor.manifest.kv_cache.tokens_per_block < 20 else []
    with pytest.raises(EngineError, match="block table"):
        executor.execute(StepBatch([ScheduledSequence(0, [1] * 20, 0, short, GREEDY, sample_last=True)]))


def test_a_closed_engine_says_so(executor: WithLogits) -> None:
    executor.close()
    executor.close()
    with pytest.raises(EngineError, match="closed"):
        executor.execute(StepBatch([ScheduledSequence(0, [1], 0, [0], GREEDY, sample_last=True)]))
