"""Prefixes are shared to the token: what fills no block is copied, of whoever has computed it."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.runtime.kv_cache.tails import PrefixTails
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from tests.unit.runtime.core_driver import Driver

pytestmark = pytest.mark.unit

SIZE = 8


def common(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def test_the_longest_beginning_is_found(rng: np.random.Generator) -> None:
    tails, known = PrefixTails(), {}
    for turn in range(400):
        parent = bytes([rng.integers(3)])
        tokens = rng.integers(0, [2, 70_000][turn % 2], rng.integers(1, 7)).tolist()
        block = int(rng.integers(30))
        if rng.random() < 0.6:
            tails.add(parent, tokens, block)
            known[block] = (parent, tokens)
        elif rng.random() < 0.5:
            tails.remove(block)
            known.pop(block, None)
        wanted = rng.integers(0, 2, rng.integers(1, 7)).tolist()
        counts = {each: common(own, wanted) for each, (place, own) in known.items() if place == parent}
        found, count = tails.find(parent, wanted)
        assert count == max(counts.values(), default=0)
        assert found == -1 if count == 0 else counts[found] == count
        assert len(tails) == len(known)


def test_a_prompt_starts_where_it_differs(rng: np.random.Generator) -> None:
    """From every earlier prompt and answer, those in full blocks and those in the last one."""
    driver = Driver(200, tokens_per_block=SIZE, max_seq_len=100)
    stem = rng.integers(0, 50, 60).tolist()
    computed: list[list[int]] = []
    for number in range(25):
        prompt = stem[: rng.integers(1, 60)] + rng.integers(0, 50, rng.integers(1, 20)).tolist()
        driver.add(f"{number}", tuple(prompt), max_tokens=int(rng.integers(1, 12)))
        driver.run()
        full, tail = divmod(max((common(each, prompt[:-1]) for each in computed), default=0), SIZE)
        # A single token is not worth a copy.
        best = full * SIZE + (tail if tail > 1 else 0)
        last = driver.last(f"{number}")
        assert last is not None and last.metrics is not None and last.metrics.cached_tokens == best
        # The last token is chosen and not computed.
        computed.append(prompt + list(driver.tokens(f"{number}"))[:-1])


def test_siblings_copy_the_block_that_their_prompt_does_not_fill() -> None:
    driver = Driver(tokens_per_block=SIZE, max_num_tokens=32)
    driver.add("request", tuple(range(21)), n=3, max_tokens=2, temperature=1.0)
    driver.run()
    found = [driver.last("request", index) for index in range(3)]
    assert [each.metrics.cached_tokens for each in found if each and each.metrics] == [0, 20, 20]


def test_a_salt_and_no_cache_share_no_tails() -> None:
    driver = Driver(tokens_per_block=SIZE)
    for number, salt in enumerate((None, "a", "b", "a")):
        driver.add(f"{number}", tuple(range(13)), max_tokens=1, cache_salt=salt)
        driver.run()
    found = [driver.last(f"{number}") for number in range(4)]
    assert [each.metrics.cached_tokens for each in found if each and each.metrics] == [0, 0, 0, 12]
    driver = Driver(config=SchedulerConfig(enable_prefix_caching=False), tokens_per_block=SIZE)
    for name in ("first", "second"):
        driver.add(name, tuple(range(13)), max_tokens=1)
        driver.run()
    assert driver.core.stats().prefix_hit_tokens == driver.core.stats().cached_blocks == 0


def test_scored_prompts_are_computed_from_the_first_token_that_is_wanted() -> None:
    driver = Driver(tokens_per_block=SIZE)
    for name, start in (("first", 0), ("second", 11), ("third", 0)):
        driver.add(name, tuple(range(21)), max_tokens=1, prompt_logprobs=1, prompt_logprobs_start=start)
        driver.run()
    found = [driver.last(name) for name in ("first", "second", "third")]
    assert [each.metrics.cached_tokens for each in found if each and each.metrics] == [0, 10, 0]
