"""Blocks that leave the KV cache for memory, and sequences that are preempted."""

from __future__ import annotations

import random
import time

import pytest

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from tests.unit.runtime.kv_cache.asking import BLOCK, COPY, PROMPT, ask, new_core

pytestmark = pytest.mark.unit


def test_memory_finds_what_was_evicted_and_forgets_what_was_used_least(
    prompts: list[tuple[int, ...]], alone: list[list[int]]
) -> None:
    core = new_core(KvOffload.of(None, 1 << 20))
    for expected in ([0] * 6, [PROMPT - 1] * 6):
        assert [ask(core, prompt) for prompt in prompts] == list(zip(alone, expected, strict=True))
    stats = core.stats()
    assert stats.offload is not None and stats.offload.blocks == stats.offload.blocks_written > 0
    assert stats.offload.bytes_read == COPY * stats.offload.blocks_read > 0
    assert stats.offload_hit_tokens == BLOCK * stats.offload.blocks_read <= stats.prefix_hit_tokens
    core.close()
    few = new_core(KvOffload.of(None, 10 * COPY))
    assert [ask(few, prompt)[0] for prompt in prompts * 2] == alone * 2
    stats = few.stats()
    assert stats.offload is not None and (stats.offload.slots, stats.offload.blocks) == (10, 10)
    few.close()


class _SlowExecutor(NullExecutor):
    """A token of a prompt takes `token_s`, a copy `copy_s`, on the clock that the engine reads."""

    token_s = copy_s = 0.0
    now = 0.0

    def execute(self, batch: StepBatch) -> StepOutput:
        self.now += batch.num_tokens * self.token_s
        return super().execute(batch)

    def copy_in(self, block: int, data: bytes) -> None:
        self.now += self.copy_s
        super().copy_in(block, data)


@pytest.mark.parametrize(("token_s", "copy_s", "copies"), [(0.1, 0.3, True), (0.1, 0.5, False)])
def test_a_preempted_sequence_is_copied_back_or_computed_whichever_is_faster(
    token_s: float, copy_s: float, copies: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = _SlowExecutor(null_manifest(tokens_per_block=BLOCK, max_seq_len=48), 14)
    executor.token_s, executor.copy_s = token_s, copy_s
    monkeypatch.setattr(time, "perf_counter", lambda: executor.now)
    config = SchedulerConfig(policy="max_utilization")
    core = EngineCore(executor, config, offload=KvOffload.of(None, 1 << 20))
    draw = random.Random(seed)
    answers: dict[str, list[int]] = {}
    counts = []
    for turn in range(12):
        for index in range(4):
            prompt = tuple(draw.randrange(257) for _ in range(25))
            params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
            core.add_request(Request(f"{turn} {index}", prompt, params))
        while core.has_unfinished():
            for delta in core.step():
                answers.setdefault(delta.request_id, []).extend(delta.token_ids)
        stats = core.stats()
        assert stats.offload is not None
        counts.append((stats.preemptions, stats.offload.blocks_read, stats.offload.recomputed))
    assert all(len(answer) == 20 for answer in answers.values())
    # By then both were seen.
    (before, read, recomputed), (after, read_since, recomputed_since) = counts[7], counts[-1]
    assert after > before and read_since > 0
    assert (read_since > read) is copies and (recomputed_since > recomputed) is not copies
    core.close()
