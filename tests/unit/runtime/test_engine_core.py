"""How requests begin and end: validation, stop rules, n, seeds, cancellation, metrics."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from inflight.errors import RequestError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.request.request import Request, sequence_seed
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.sampling.rules import StopRules
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from tests.unit.runtime.core_driver import Driver

pytestmark = pytest.mark.unit


def _free_run(**params: Any) -> list[int]:
    """The tokens of the request "r" with nothing to end it early."""
    driver = Driver()
    driver.add("r", 5, max_tokens=20, **params)
    driver.run()
    return driver.tokens("r")


def _run(prompt: int = 5, **params: Any) -> Driver:
    driver = Driver()
    driver.add("r", prompt, **{"max_tokens": 20, **params})
    driver.run()
    return driver


def _request(name: str, **params: Any) -> Request:
    return Request(name, tuple(range(20)), SamplingParams(**params))


@pytest.mark.parametrize(
    ("limits", "prompt", "params", "message"),
    [
        ({"max_seq_len": 99}, 500, {"max_tokens": 10}, "500 tokens and max_tokens is 10; this engine takes 99 in all"),
        ({"max_seq_len": 64}, 60, {"max_tokens": 5}, "has 60 tokens and max_tokens is 5; this engine takes 64 in all"),
        ({"max_seq_len": 64}, 64, {"max_tokens": None}, "has 64 tokens; this engine takes 64 in all"),
        ({"max_seq_len": 4096}, 2000, {}, "has 2000 tokens and max_tokens is 16; the KV cache holds 1024 in all"),
        ({}, (), {}, "^The prompt is empty"),
        ({}, (1, 257), {}, "The prompt has the token id 257; the vocabulary has 257, 0 to 256"),
        ({}, (1, -3), {}, "The prompt has the token id -3"),
        ({}, 3, {"logit_bias": {300: 1.0}}, "logit_bias has the token id 300"),
        ({}, 3, {"logit_bias": {3: math.nan}}, r"logit_bias is nan .* a number up to 1e\+38"),
    ],
)  # fmt: skip
def test_what_can_never_be_served_is_refused_with_the_numbers(
    limits: dict[str, Any], prompt: int | tuple[int, ...], params: dict[str, Any], message: str
) -> None:
    driver = Driver(num_blocks=64, **limits)
    with pytest.raises(RequestError, match=message):
        driver.add("r", prompt, **params)
    assert not driver.core.has_unfinished()
    driver.add("another", 3)
    driver.run()
    assert driver.last("another").finish_reason == "length"


def test_an_id_is_refused_while_it_is_in_use_and_free_afterwards() -> None:
    driver = Driver()
    driver.add("r", 5, max_tokens=2)
    with pytest.raises(RequestError, match="id r is running"):
        driver.add("r", 5, max_tokens=2)
    driver.run()
    driver.add("r", 5, max_tokens=2)
    driver.run()
    assert len(driver.tokens("r")) == 4


def test_max_tokens_ends_with_length() -> None:
    driver = _run(max_tokens=7)
    assert len(driver.tokens("r")) == 7
    assert (driver.last("r").finish_reason, driver.last("r").ended_by_token) == ("length", False)


def test_without_max_tokens_the_engine_s_length_is_the_limit() -> None:
    driver = Driver(max_seq_len=32)
    driver.add("r", 5, max_tokens=None)
    driver.run()
    assert len(driver.tokens("r")) == 27
    assert driver.last("r").finish_reason == "length"


def test_without_max_tokens_a_small_cache_is_the_limit() -> None:
    driver = Driver(num_blocks=1, tokens_per_block=16, max_seq_len=32)
    driver.add("r", 5, max_tokens=None)
    driver.run()
    assert len(driver.tokens("r")) == 11


def test_an_end_token_ends_with_stop_and_is_part_of_the_tokens() -> None:
    free = _free_run()
    driver = _run(end_token_ids=(free[6],))
    length = free.index(free[6]) + 1
    assert driver.tokens("r") == free[:length]
    last = driver.last("r")
    assert (last.finish_reason, last.stop_reason, last.ended_by_token) == ("stop", None, True)


def test_a_stop_token_id_names_itself_as_the_reason() -> None:
    free = _free_run()
    driver = _run(stop_token_ids=(free[6],))
    last = driver.last("r")
    assert (last.finish_reason, last.stop_reason, last.ended_by_token) == ("stop", free[6], True)
    assert driver.tokens("r") == free[: free.index(free[6]) + 1]


def test_ignore_eos_goes_past_end_tokens_but_not_past_stop_token_ids() -> None:
    free = _free_run()
    assert _run(end_token_ids=(free[3],), ignore_eos=True).tokens("r") == free
    stopped = _run(end_token_ids=(free[3],), stop_token_ids=(free[6],), ignore_eos=True)
    assert stopped.last("r").stop_reason == free[6]


def test_min_tokens_forbids_every_ending_token_until_then() -> None:
    driver = Driver(vocab_size=3)
    driver.add("r", (0, 1), max_tokens=40, min_tokens=30, end_token_ids=(1,), stop_token_ids=(2,))
    driver.run()
    tokens = driver.tokens("r")
    assert set(tokens[:30]) == {0}
    assert driver.last("r").finish_reason == "stop" or len(tokens) == 40


def test_a_bad_word_is_never_completed_not_even_out_of_the_prompt() -> None:
    driver = Driver(vocab_size=4)
    driver.add("r", (0, 1, 2), max_tokens=200, bad_word_ids=((2, 3), (0, 0), (1, 2, 1), (3,)))
    driver.run()
    text = [0, 1, 2, *driver.tokens("r")]
    assert 3 not in text
    assert (0, 0) not in pairwise(text)
    assert (1, 2, 1) not in zip(text, text[1:], text[2:], strict=False)


def test_bans_grow_and_shrink_with_the_tail() -> None:
    rules = StopRules(_request("r", bad_word_ids=((1, 2, 5), (2, 6), (9,)), min_tokens=2, stop_token_ids=(7,)), 10)
    assert rules.banned([1, 2], 0) == (5, 6, 7, 9)
    assert rules.banned([1, 2], 2) == (5, 6, 9)
    assert rules.banned([2, 1], 2) == (9,)


def test_ids_beyond_the_vocabulary_neither_end_nor_ban() -> None:
    driver = Driver(vocab_size=50)
    driver.add(
        "r",
        (1, 2),
        max_tokens=3,
        min_tokens=1,
        stop_token_ids=(50256,),
        bad_word_ids=((50256,),),
        end_token_ids=(50257,),
    )
    driver.run()
    assert driver.last("r").finish_reason == "length"


def test_a_bias_of_minus_infinity_bans() -> None:
    driver = Driver(vocab_size=5)
    driver.add("r", (1, 2), max_tokens=100, logit_bias={0: -math.inf, 3: -math.inf})
    driver.run()
    assert set(driver.tokens("r")) == {1, 2, 4}


def test_sequences_of_a_request_have_their_own_seeds_and_the_first_keeps_the_request_s() -> None:
    alone = _run(temperature=1.0, seed=5).tokens("r")
    driver = _run(temperature=1.0, seed=5, n=3)
    answers = [driver.tokens("r", index) for index in range(3)]
    assert answers[0] == alone
    assert len({tuple(answer) for answer in answers}) == 3
    assert _run(temperature=1.0, seed=5, n=3).tokens("r", 2) == answers[2]


def test_seeds_are_64_bits_whatever_was_given() -> None:
    assert sequence_seed(5, 0) == 5
    assert sequence_seed(-1, 0) == 2**64 - 1
    seeds = {sequence_seed(seed, index) for seed in (0, 1, -7, 2**63) for index in range(50)}
    assert len(seeds) == 4 * 50
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_without_a_seed_one_is_drawn() -> None:
    assert _run(temperature=1.0, seed=None).tokens("r") != _run(temperature=1.0, seed=None).tokens("r")


def test_best_of_runs_more_sequences_and_scores_them() -> None:
    driver = _run(n=1, best_of=3, temperature=1.0)
    assert len(driver.deltas) == 3
    assert all(len(delta.logprobs) == len(delta.token_ids) for delta in driver.deltas["r", 2])


def test_logprobs_come_with_every_token_and_only_when_asked_for() -> None:
    asked = _run(logprobs=2)
    assert all(len(delta.logprobs) == 1 and len(delta.logprobs[0].top) == 2 for delta in asked.deltas["r", 0])
    assert all(delta.logprobs == () for delta in _run().deltas["r", 0])


def test_prompt_logprobs_come_once_with_the_first_token_of_index_0() -> None:
    driver = _run(prompt_logprobs=1, n=2)
    given = {key: [delta.prompt_logprobs is not None for delta in deltas] for key, deltas in driver.deltas.items()}
    assert given["r", 0] == [True] + [False] * 19
    assert not any(given["r", 1])
    scores = driver.deltas["r", 0][0].prompt_logprobs
    assert scores is not None and len(scores) == 5


def test_the_prompt_logprobs_of_one_token_are_none_alone() -> None:
    assert _run(prompt=1, prompt_logprobs=1).deltas["r", 0][0].prompt_logprobs == (None,)


def test_cancelling_frees_blocks_at_once_and_gives_one_final_delta() -> None:
    driver = Driver(config=SchedulerConfig(enable_prefix_caching=False), tokens_per_block=4)
    driver.add("r", 20, max_tokens=50)
    driver.add("other", 20, max_tokens=5)
    for _ in range(3):
        driver.step()
    used = driver.core.stats().used_blocks
    driver.core.cancel("r")
    driver.core.cancel("r")
    assert driver.core.stats().used_blocks < used
    driver.run()
    assert [delta.finish_reason for delta in driver.deltas["r", 0]][-2:] == [None, "cancelled"]
    assert driver.last("other").finish_reason == "length"


def test_one_sequence_of_a_request_can_be_cancelled_alone() -> None:
    driver = Driver()
    driver.add("r", 5, n=3, max_tokens=6)
    driver.step()
    driver.core.cancel("r", 1)
    driver.run()
    assert [driver.last("r", index).finish_reason for index in range(3)] == ["length", "cancelled", "length"]


def test_a_waiting_request_can_be_cancelled_before_it_ever_ran() -> None:
    driver = Driver(max_batch_size=1)
    driver.add("first", 5, max_tokens=9)
    driver.add("second", 5, max_tokens=9)
    driver.step()
    driver.core.cancel("second")
    driver.core.cancel("nobody")
    driver.run()
    last = driver.last("second")
    assert last.finish_reason == "cancelled" and last.metrics is not None
    assert (last.metrics.first_scheduled_ns, last.metrics.output_tokens) == (0, 0)


def test_metrics_count_tokens_blocks_and_times_in_order() -> None:
    driver = Driver(tokens_per_block=4)
    driver.add("r", 9, max_tokens=8)
    driver.run()
    metrics = driver.last("r").metrics
    assert metrics is not None
    assert metrics.arrival_ns <= metrics.first_scheduled_ns <= metrics.first_token_ns <= metrics.last_token_ns
    assert (metrics.prompt_tokens, metrics.output_tokens, metrics.cached_tokens) == (9, 8, 0)
    assert (metrics.kv_blocks_total, metrics.kv_blocks_new, metrics.kv_blocks_reused) == (3, 3, 0)
    assert [delta.metrics for delta in driver.deltas["r", 0][:-1]] == [None] * 7


def test_stats_add_up_at_every_step() -> None:
    driver = Driver(num_blocks=12, tokens_per_block=4, max_seq_len=40)
    for name in "abcdef":
        driver.add(name, 9, max_tokens=8)
    while driver.core.has_unfinished():
        driver.step()
        stats = driver.core.stats()
        assert stats.free_blocks + stats.cached_blocks + stats.used_blocks == stats.total_blocks == 12
    assert (stats.running, stats.waiting, stats.held, stats.used_blocks) == (0, 0, 0, 0)
    assert (stats.prompt_tokens, stats.output_tokens) == (6 * 9, 6 * 8)
    assert stats.iterations == len(driver.executor.steps)


class _Failing(NullExecutor):
    def execute(self, batch: StepBatch) -> StepOutput:
        raise RuntimeError("the device is gone")


def test_after_a_failed_step_abort_ends_everything_and_nothing_is_lost() -> None:
    core = EngineCore(_Failing(null_manifest(), 16))
    for name in "ab":
        core.add_request(_request(name, n=2))
    with pytest.raises(RuntimeError, match="the device is gone"):
        core.step()
    deltas = core.abort("error", "the device is gone")
    assert sorted((delta.request_id, delta.index, delta.finish_reason) for delta in deltas) == [
        (name, index, "error") for name in "ab" for index in range(2)
    ]
    assert not core.has_unfinished()
    core.check_integrity()
