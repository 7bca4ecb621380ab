"""Tokens that the device chooses beside the host's choice from the same logits, and those of greedy rows without any
logits; a step that repeats, launched one by one, recorded and replayed; and two steps under way beside one at a time,
with penalties and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compare.kit.parts.report import Report
from compare.kit.parts.steppers import Kit, Script
from compare.kit.parts.tokens import read_expected
from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.executors.host_sampling import sequence_result
from inflight.runtime.scheduler.step import RowSampling, ScheduledSequence, StepBatch, StepOutput

# Rounds of random sampling, replays of one step, and tokens of sequences that run two steps at once.
_ROUNDS, _REPLAYS, _TOKENS = 40, 20, 12
_SAMPLINGS = (
    RowSampling(temperature=1.0, seed=5),
    RowSampling(temperature=1.0, seed=6, repetition_penalty=1.5, frequency_penalty=0.5),
)


def run(kit: Kit, report: Report) -> None:
    rng = np.random.default_rng(11)
    for engine in kit.engines()[: 1 if kit.interpreted else None]:
        script, expected, _ = read_expected(engine)
        executor = kit.open(engine, script.num_blocks)
        script.logits(executor, range(len(script.prompts)))
        judged = (
            _other_tokens(executor, script, rng, 2 if kit.interpreted else _ROUNDS),
            _other_greatest(executor, script, 3 if kit.interpreted else _REPLAYS),
            _other_bits(executor, script, 3 if kit.interpreted else _REPLAYS),
            sum(_other_order(executor, script, each, 2 if kit.interpreted else _TOKENS) for each in _SAMPLINGS),
        )
        executor.close()
        names = (
            "rows sampled otherwise",
            "greedy tokens that differ without logits",
            "replays with other bits",
            "tokens that differ with two steps under way",
        )
        found = dict(zip(names, judged, strict=True))
        report.add(engine.name, {**found, "vocabulary": expected.shape[-1]})
        for name, count in found.items():
            if count:
                report.fail(f"{engine.name}: {count} {name}")


def _records(
    script: Script, sampling: RowSampling, tokens: list[int], start: int, histories: Sequence[list[int]] = ()
) -> list[ScheduledSequence]:
    """One generated token of each sequence, `start` behind its prompt; `histories`: with penalties, what was before."""
    return [
        ScheduledSequence(
            *(each, [tokens[each]], len(prompt) + start, script.blocks(each), sampling),
            sample_last=True,
            prompt_length=len(prompt),
            history=histories[each] if histories else (),
        )
        for each, prompt in enumerate(script.prompts)
    ]


def _other_tokens(executor: CudaExecutor, script: Script, rng: np.random.Generator, rounds: int) -> int:
    differing = 0
    for _ in range(rounds):
        records = _records(script, RowSampling(), [1] * len(script.prompts), 0)
        for record in records:
            record.sampling = _random_sampling(rng)
            record.history = [*script.prompts[record.slot], 1]
            record.banned = tuple(rng.integers(200, size=int(rng.integers(3))).tolist())
        output, logits = executor.execute_with_logits(StepBatch(records))
        for record, row, ours in zip(records, logits, output.results, strict=True):
            theirs = sequence_result(record, row[None]).sampled
            assert ours.sampled is not None and theirs is not None, "every row chooses a token"
            same = ours.sampled.token_id == theirs.token_id and ours.sampled.rank == theirs.rank
            differing += not same
    return differing


def _random_sampling(rng: np.random.Generator) -> RowSampling:
    pick = rng.choice
    return RowSampling(
        temperature=float(pick([0.0, 0.7, 1.5])),
        top_k=int(pick([0, 1, 40])),
        top_p=float(np.float32(pick([1.0, 0.9, 0.3]))),
        min_p=float(np.float32(pick([0.0, 0.02]))),
        repetition_penalty=float(np.float32(pick([1.0, 1.3]))),
        frequency_penalty=float(np.float32(pick([0.0, 0.4]))),
        seed=int(rng.integers(2**63)),
        num_logprobs=int(pick([-1, 0, 5])),
        bias=((int(rng.integers(200)), 2.0),) if rng.integers(2) else (),
    )


def _other_bits(executor: CudaExecutor, script: Script, repeats: int) -> int:
    records = _records(script, RowSampling(), [1] * len(script.prompts), 0)
    steps = [executor.execute_with_logits(StepBatch(records))[1] for _ in range(repeats)]
    return sum(not np.array_equal(steps[0], each) for each in steps)


def _other_greatest(executor: CudaExecutor, script: Script, repeats: int) -> int:
    """Without logits the steps are launched one by one, recorded, then replayed."""
    records = _records(script, RowSampling(), [1] * len(script.prompts), 0)
    expected, _ = executor.execute_with_logits(StepBatch(records))
    steps = [executor.execute(StepBatch(records)).token_ids for _ in range(repeats)]
    return sum(int(np.sum(np.array(each) != np.array(expected.token_ids))) for each in steps)


def _other_order(executor: CudaExecutor, script: Script, sampling: RowSampling, count: int) -> int:
    tokens, one_by_one = [1] * len(script.prompts), []
    histories = _histories(script, sampling)
    for start in range(count):
        output = executor.execute(StepBatch(_records(script, sampling, tokens, start, histories)))
        tokens = _grown(histories, output)
        one_by_one.append(tokens)
    ahead = []
    histories = _histories(script, sampling)
    submitted: Any = executor.submit(StepBatch(_records(script, sampling, [1] * len(script.prompts), 0, histories)))
    for start in range(1, count + 1):
        records = _records(script, sampling, [0] * len(script.prompts), start, histories)
        following = [replace(record, follows=place) for place, record in enumerate(records)]
        behind = executor.submit(StepBatch(following)) if start < count else None
        ahead.append(_grown(histories, executor.collect(submitted)))
        submitted = behind
    return int(np.sum(np.array(one_by_one) != np.array(ahead)))


def _histories(script: Script, sampling: RowSampling) -> list[list[int]]:
    return [[*prompt, 1] for prompt in script.prompts] if sampling.needs_history else []


def _grown(histories: list[list[int]], output: StepOutput) -> list[int]:
    """The tokens of a step, which are behind the histories now."""
    tokens = [int(token or 0) for token in output.token_ids]
    for history, token in zip(histories, tokens, strict=False):
        history.append(token)
    return tokens
