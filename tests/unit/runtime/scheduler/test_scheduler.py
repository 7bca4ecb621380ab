"""Which tokens are computed when: budgets, order, the two policies, prefix reuse."""

from __future__ import annotations

import pytest

from inflight.errors import EngineError
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from tests.unit.runtime.core_driver import Driver

pytestmark = pytest.mark.unit

MAX_UTILIZATION = SchedulerConfig(policy="max_utilization", enable_prefix_caching=False)


def test_a_long_prompt_is_computed_in_chunks_and_decodes_go_on_beside_it() -> None:
    driver = Driver(max_num_tokens=10)
    driver.add("short", 3, max_tokens=20)
    driver.step()
    driver.add("long", 50, max_tokens=1)
    while ("long", 0) not in driver.deltas:
        deltas = driver.step()
        assert any(delta.request_id == "short" for delta in deltas)
    assert [step[1] for step in driver.executor.steps[1:]] == [(0, 9), (9, 9), (18, 9), (27, 9), (36, 9), (45, 5)]


def test_a_step_never_exceeds_max_num_tokens_of_the_configuration() -> None:
    driver = Driver(config=SchedulerConfig(max_num_tokens=7), max_num_tokens=100)
    for name in "abc":
        driver.add(name, 20, max_tokens=5)
    driver.run()
    assert max(sum(length for _, length in step.values()) for step in driver.executor.steps) == 7


def test_no_more_sequences_run_than_the_configuration_allows() -> None:
    driver = Driver(config=SchedulerConfig(max_batch_size=2))
    for name in "abcde":
        driver.add(name, 4, max_tokens=3)
    driver.run()
    assert max(len(step) for step in driver.executor.steps) == 2


def test_a_configuration_beyond_the_engine_is_refused() -> None:
    with pytest.raises(EngineError, match="max_num_tokens is 200, but the engine was built for 100"):
        Driver(config=SchedulerConfig(max_num_tokens=200), max_num_tokens=100)


def test_policies_are_known_by_their_tensorrt_llm_names_in_any_case() -> None:
    assert SchedulerConfig(policy="MAX_UTILIZATION").policy == "max_utilization"  # type: ignore[arg-type]
    assert SchedulerConfig(policy="GUARANTEED_NO_EVICT").policy == "guaranteed_no_evict"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="guaranteed_no_evict"):
        SchedulerConfig(policy="greedy")  # type: ignore[arg-type]


def test_equal_priorities_are_served_in_the_order_of_arrival_and_lower_ones_sooner() -> None:
    driver = Driver(max_batch_size=1)
    for name, priority in (("second", 0), ("third", 0), ("last", 5), ("first", -1)):
        driver.add(name, 4, priority=priority, max_tokens=2)
    driver.run()
    assert driver.finish_order() == ["first", "second", "third", "last"]


def test_a_waiting_request_is_not_passed_by_smaller_ones() -> None:
    driver = Driver(num_blocks=10, tokens_per_block=4, max_seq_len=40)
    driver.add("running", 16, max_tokens=8)
    driver.step()
    driver.add("large", 20, max_tokens=12)
    driver.add("small", 2, max_tokens=2)
    driver.run()
    assert driver.finish_order() == ["running", "small", "large"]
    starts = [driver.last(name).metrics for name in ("large", "small")]
    assert all(starts)
    assert driver.last("large").metrics.first_scheduled_ns <= driver.last("small").metrics.first_scheduled_ns  # type: ignore[union-attr]


def test_guaranteed_no_evict_admits_only_what_fits_in_the_worst_case() -> None:
    driver = Driver(num_blocks=10, tokens_per_block=4, max_seq_len=40)
    for name in "abc":
        driver.add(name, 8, max_tokens=9)  # 8 + 9 - 1 computed tokens: 4 blocks each
    driver.run()
    assert max(len(step) for step in driver.executor.steps) == 2
    assert driver.core.stats().preemptions == 0


def test_guaranteed_no_evict_counts_shared_blocks_once() -> None:
    prompt = tuple(range(16))
    driver = Driver(num_blocks=8, tokens_per_block=4, max_seq_len=32)
    driver.add("first", prompt, max_tokens=9)  # 6 blocks, 3 of them shared with the second
    driver.step()
    driver.add("second", prompt[:13], max_tokens=4)  # 4 blocks
    driver.step()
    assert driver.core.stats().running == 2
    driver.run()
    assert driver.last("second").metrics.kv_blocks_reused == 3  # type: ignore[union-attr]


def test_max_utilization_admits_what_the_other_policy_would_not_and_preempts_the_latest() -> None:
    driver = Driver(10, MAX_UTILIZATION, tokens_per_block=4, max_seq_len=40)
    for name in "abc":
        driver.add(name, 8, max_tokens=12)
    driver.run()
    assert max(len(step) for step in driver.executor.steps) == 3
    preempted = {name: driver.last(name).metrics.preemptions for name in "abc"}  # type: ignore[union-attr]
    assert preempted["a"] == 0
    assert preempted["c"] > 0


def test_a_preempted_sequence_goes_on_with_the_same_tokens() -> None:
    crowded = Driver(10, MAX_UTILIZATION, tokens_per_block=4, max_seq_len=40)
    for name in "abc":
        crowded.add(name, 8, max_tokens=12, logprobs=1, prompt_logprobs=1)
    crowded.run()
    assert crowded.core.stats().preemptions > 0
    for name in "abc":
        alone = Driver(tokens_per_block=4)
        alone.add(name, 8, max_tokens=12, logprobs=1, prompt_logprobs=1)
        alone.run()
        assert alone.tokens(name) == crowded.tokens(name)
        assert alone.deltas[name, 0][0].prompt_logprobs == crowded.deltas[name, 0][0].prompt_logprobs


def test_a_preempted_sequence_starts_again_when_all_that_it_had_computed_fits() -> None:
    """A chunk of it would fit sooner, and be taken from it again and again."""
    driver = Driver(9, MAX_UTILIZATION, tokens_per_block=4, max_seq_len=36, max_num_tokens=6)
    driver.add("a", 8, max_tokens=28)
    driver.add("b", 8, max_tokens=12)
    driver.run()
    for name, preemptions in (("a", 0), ("b", 1)):
        metrics = driver.last(name).metrics
        assert metrics is not None and metrics.preemptions == preemptions
        assert 0 < metrics.first_scheduled_ns < metrics.first_token_ns


def test_a_lower_priority_is_preempted_before_an_older_request() -> None:
    driver = Driver(10, MAX_UTILIZATION, tokens_per_block=4, max_seq_len=40)
    driver.add("unimportant", 8, priority=1, max_tokens=12)
    driver.add("important", 8, max_tokens=12)
    driver.add("usual", 8, max_tokens=12)
    driver.run()
    assert driver.last("unimportant").metrics.preemptions > 0  # type: ignore[union-attr]
    assert driver.last("important").metrics.preemptions == 0  # type: ignore[union-attr]


def test_the_second_request_with_a_prompt_computes_its_last_token_alone() -> None:
    driver = Driver(tokens_per_block=4)
    for name in ("first", "second"):
        driver.add(name, tuple(range(16)), max_tokens=3)
        driver.run()
    assert driver.executor.steps[3] == {0: (15, 1)}
    assert driver.last("second").metrics.cached_tokens == 15  # type: ignore[union-attr]
    assert driver.core.stats().prefix_hit_tokens == 15
    assert driver.tokens("first") == driver.tokens("second")


def test_an_answer_is_reused_in_the_next_turn_of_a_chat() -> None:
    driver = Driver(tokens_per_block=4)
    driver.add("first", tuple(range(8)), max_tokens=9)
    driver.run()
    prompt = (*range(8), *driver.tokens("first"))
    driver.add("second", (*prompt, 1, 2, 3), max_tokens=1)
    driver.run()
    assert driver.last("second").metrics.cached_tokens == 16  # type: ignore[union-attr]


def test_without_prefix_caching_nothing_is_kept() -> None:
    driver = Driver(config=SchedulerConfig(enable_prefix_caching=False), tokens_per_block=4)
    for name in ("first", "second"):
        driver.add(name, tuple(range(16)), max_tokens=3)
        driver.run()
    assert driver.last("second").metrics.cached_tokens == 0  # type: ignore[union-attr]
    assert driver.core.stats().cached_blocks == 0


def test_siblings_wait_for_the_prompt_and_then_share_it() -> None:
    driver = Driver(tokens_per_block=4, max_num_tokens=8)
    driver.add("request", tuple(range(18)), n=3, max_tokens=2, temperature=1.0)
    driver.step()
    assert (driver.core.stats().running, driver.core.stats().held) == (1, 2)
    driver.run()
    assert [driver.last("request", index).metrics.cached_tokens for index in range(3)] == [0, 16, 16]  # type: ignore[union-attr]
    assert sum(length for step in driver.executor.steps for _, length in step.values()) == 18 + 2 + 2 + 3


def test_siblings_of_a_cancelled_first_sequence_go_on_without_it() -> None:
    driver = Driver(tokens_per_block=4, max_num_tokens=8)
    driver.add("request", tuple(range(18)), n=3, max_tokens=2)
    driver.step()
    driver.core.cancel("request", 0)
    driver.run()
    assert [driver.last("request", index).finish_reason for index in range(3)] == ["cancelled", "length", "length"]


def test_prompt_logprobs_are_chunked_by_logit_rows_and_skip_no_tokens() -> None:
    driver = Driver(tokens_per_block=4, max_logit_rows=8)
    driver.add("plain", tuple(range(20)), max_tokens=1)
    driver.run()
    driver.add("scored", tuple(range(20)), max_tokens=1, prompt_logprobs=0)
    driver.run()
    assert [step[0] for step in driver.executor.steps[1:]] == [(0, 8), (8, 8), (16, 4)]
    scores = driver.last("scored").prompt_logprobs
    assert scores is not None
    assert scores[0] is None
    assert [score.token_id for score in scores[1:] if score] == list(range(1, 20))


@pytest.mark.parametrize("copies", [True, False])
def test_prompt_logprobs_from_a_place_on_leave_what_is_before_to_the_prefix_cache(copies: bool) -> None:
    driver = Driver(tokens_per_block=4, max_logit_rows=8)
    if not copies:
        driver.core._blocks.tails = None
    driver.add("plain", tuple(range(20)), max_tokens=1)
    driver.run()
    driver.add("scored", tuple(range(20)), max_tokens=1, prompt_logprobs=0, prompt_logprobs_start=15)
    driver.run()
    # Token 14 scores token 15: three blocks are shared, and what is between them and it is copied with its block, or
    # has a chunk without rows.
    assert [step[0] for step in driver.executor.steps[1:]] == [*([] if copies else [(12, 2)]), (14, 6)]
    scores = driver.last("scored").prompt_logprobs
    assert scores is not None and scores[:15] == (None,) * 15
    assert [score.token_id for score in scores if score] == list(range(15, 20))
