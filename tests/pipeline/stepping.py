"""Sequences driven through an executor step by step, with chosen chunks and company: a scheduler without policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.runtime.executors.base import Executor
from inflight.runtime.executors.cpu.executor import CpuExecutor
from inflight.runtime.executors.reference.executor import ReferenceExecutor
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch, TokenResult


@dataclass
class Run:
    """One sequence: `results` are its chosen tokens, `prompt_results` the scores of prompt tokens after the first."""

    prompt: tuple[int, ...]
    sampling: RowSampling
    count: int
    score_prompt: bool = False
    blocks: tuple[int, ...] = ()
    computed: int = 0
    results: list[TokenResult] = field(default_factory=list)
    prompt_results: list[TokenResult] = field(default_factory=list)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.prompt + tuple(result.token_id for result in self.results)

    @property
    def done(self) -> bool:
        return len(self.results) == self.count

    def schedule(self, slot: int, count: int) -> ScheduledSequence:
        end = self.computed + count
        tokens = self.token_ids
        return ScheduledSequence(
            slot=slot,
            token_ids=tokens[self.computed : end],
            start=self.computed,
            block_table=self.blocks,
            sampling=self.sampling,
            sample_last=end == len(tokens),
            prompt_length=len(self.prompt),
            history=tokens if self.sampling.needs_history else (),
            prompt_targets=self.prompt[self.computed + 1 : end + 1] if self.score_prompt else (),
            prompt_num_logprobs=3 if self.score_prompt else -1,
        )


def run_all(
    executor: Executor,
    runs: Sequence[Run],
    rng: np.random.Generator,
    chunk: Callable[[], int],
) -> None:
    """Step until every run is done, in scattered blocks.

    chunk: called for how many tokens the next piece of a prompt may have. The engine must have as many logit rows as
    tokens in a step when prompts are scored.
    """
    limits = executor.manifest.limits
    per_run = -(-limits.max_seq_len // executor.manifest.kv_cache.tokens_per_block)
    scattered = rng.permutation(executor.num_blocks)
    for index, run in enumerate(runs):
        run.blocks = tuple(int(block) for block in scattered[index * per_run : (index + 1) * per_run])
    while not all(run.done for run in runs):
        left = limits.max_num_tokens
        chosen: list[tuple[Run, ScheduledSequence]] = []
        for slot in rng.permutation(len(runs))[: limits.max_batch_size]:
            run = runs[slot]
            count = min(len(run.token_ids) - run.computed, chunk(), left)
            if run.done or count < 1:
                continue
            left -= count
            chosen.append((run, run.schedule(int(slot), count)))
        output = executor.execute(StepBatch([sequence for _, sequence in chosen]))
        for (run, sequence), result in zip(chosen, output.results, strict=True):
            run.computed += len(sequence.token_ids)
            run.prompt_results.extend(result.prompt)
            if result.sampled is not None:
                run.results.append(result.sampled)


def prompt_logits(executor: CpuExecutor | ReferenceExecutor, prompt: Sequence[int]) -> npt.NDArray[Any]:
    """Logits float32 [len(prompt), vocab] of every position of a prompt, in as many steps as the limits ask for."""
    limits = executor.manifest.limits
    size = min(limits.max_num_tokens, limits.max_logit_rows)
    blocks = range(-(-len(prompt) // executor.manifest.kv_cache.tokens_per_block))
    rows = []
    for start in range(0, len(prompt), size):
        chunk = prompt[start : start + size]
        targets = (*prompt[start + 1 : start + size + 1], 0)[: len(chunk)]  # any target: the logits are what is wanted
        sequence = ScheduledSequence(0, chunk, start, blocks, prompt_targets=targets, prompt_num_logprobs=0)
        rows.append(executor.execute_with_logits(StepBatch([sequence]))[1])
    return np.concatenate(rows)
