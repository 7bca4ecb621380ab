"""Which steps are scheduled before the one before them was read, and what happens to them."""

from __future__ import annotations

from typing import Any

import pytest

from inflight.errors import EngineError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from tests.engines.overlapping import Overlapping
from tests.unit.runtime.core_driver import Driver, RecordingExecutor

pytestmark = pytest.mark.unit


class AheadDriver(Driver):
    """A driver whose executor computes a step when it is collected."""

    def __init__(self, num_blocks: int = 64, config: SchedulerConfig | None = None, **limits: Any) -> None:
        super().__init__(num_blocks, config, **limits)
        self.overlapping = Overlapping(self.executor, late=True)
        self.core = EngineCore(self.overlapping, config)

    @property
    def ahead(self) -> int:
        return self.overlapping.ahead


def test_every_step_behind_the_first_is_ahead_and_none_is_computed_in_vain() -> None:
    driver = AheadDriver()
    driver.add("a", 5, max_tokens=6)
    driver.add("b", 3, max_tokens=4)
    driver.run()
    assert driver.ahead == 5
    assert [len(step) for step in driver.executor.steps] == [2, 2, 2, 2, 1, 1]


def test_one_that_a_token_ends_is_computed_once_in_vain_and_answered_as_ever() -> None:
    plain, ahead = Driver(), AheadDriver()
    plain.add("a", 5, max_tokens=9)
    plain.run()
    tokens = plain.tokens("a")
    ends = tokens.index(tokens[3])
    ahead.add("a", 5, max_tokens=9, stop_token_ids=(tokens[3],))
    ahead.run()
    assert ahead.tokens("a") == tokens[: ends + 1] and ahead.last("a").finish_reason == "stop"
    assert len(ahead.executor.steps) == ends + 2


def test_penalties_are_ahead_and_the_history_lacks_what_is_not_chosen_yet() -> None:
    """The null executor holds each history against what its cache has."""
    plain, ahead = Driver(), AheadDriver()
    for driver in (plain, ahead):
        driver.add("plain", 4, max_tokens=6)
        driver.add("other", 4, max_tokens=6, repetition_penalty=1.2)
        driver.run()
    assert ahead.ahead == 5
    assert [ahead.tokens(name) for name in ("plain", "other")] == [plain.tokens(name) for name in ("plain", "other")]


@pytest.mark.parametrize("params", [{"bad_word_ids": ((3, 4),)}, {"min_tokens": 2, "stop_token_ids": (5,)}])
def test_nothing_is_ahead_of_what_depends_on_the_tokens(params: dict[str, Any]) -> None:
    driver = AheadDriver()
    driver.add("plain", 4, max_tokens=6)
    driver.add("other", 4, max_tokens=6, **params)
    driver.run()
    assert driver.ahead == 0
    assert len(driver.executor.steps) == 6


def test_who_comes_meanwhile_starts_a_step_later() -> None:
    driver = AheadDriver()
    driver.add("first", 4, max_tokens=20)
    for _ in range(3):
        driver.step()
    driver.add("second", 4, max_tokens=3)
    begun = len(driver.executor.steps)
    driver.run()
    assert [len(step) for step in driver.executor.steps[begun : begun + 3]] == [1, 2, 2]


class _Revoking(Overlapping):
    """That which was submitted and not collected can be dropped; `revoked` counts it."""

    revoked = 0

    def revoke(self) -> None:
        self.revoked += len(self._under_way)
        self._under_way = []


def _revoking_driver(**limits: Any) -> tuple[AheadDriver, _Revoking]:
    driver = AheadDriver(**limits)
    executor = _Revoking(driver.executor, late=True)
    driver.core = EngineCore(executor)
    return driver, executor


def test_where_a_step_can_be_dropped_who_comes_meanwhile_starts_at_once() -> None:
    plain = Driver()
    driver, executor = _revoking_driver()
    for each in (plain, driver):
        each.add("first", 4, max_tokens=20)
        for _ in range(3):
            each.step()
        each.add("second", 4, max_tokens=3)
        each.run()
    assert driver.executor.steps == plain.executor.steps
    assert executor.revoked == 1
    assert [driver.tokens(name) for name in ("first", "second")] == [plain.tokens(name) for name in ("first", "second")]


def test_who_waits_in_vain_drops_no_step() -> None:
    driver, executor = _revoking_driver(max_batch_size=1)
    driver.add("runs", 4, max_tokens=8)
    driver.add("waits", 4, max_tokens=8)
    driver.run()
    assert executor.ahead == 14 and executor.revoked == 0


def test_a_step_that_nobody_needs_any_more_is_dropped() -> None:
    plain = Driver()
    plain.add("a", 5, max_tokens=9)
    plain.run()
    stop = plain.tokens("a")[3]
    driver, executor = _revoking_driver()
    driver.add("a", 5, max_tokens=9, stop_token_ids=(stop,))
    driver.run()
    assert driver.last("a").finish_reason == "stop"
    assert executor.revoked == 1 and not driver.core.has_unfinished()
    driver.core.check_integrity()


def test_a_full_batch_goes_on_ahead_of_those_who_wait() -> None:
    driver = AheadDriver(max_batch_size=1)
    driver.add("runs", 4, max_tokens=8)
    driver.add("waits", 4, max_tokens=8)
    driver.run()
    assert driver.ahead == 14
    assert len(driver.executor.steps) == 16


def test_a_prompt_that_goes_on_is_not_passed() -> None:
    """Nor is a step ahead that would take a preemption."""
    driver = AheadDriver(max_num_tokens=8)
    driver.add("short", 2, max_tokens=4)
    driver.add("long", 40, max_tokens=1)
    driver.run()
    assert driver.ahead == 0
    config = SchedulerConfig(policy="max_utilization", enable_prefix_caching=False)
    plain, tight = (kind(6, config, tokens_per_block=4) for kind in (Driver, AheadDriver))
    for each in (plain, tight):
        each.add("a", 4, max_tokens=14)
        each.add("b", 4, max_tokens=14)
        each.run()
    assert isinstance(tight, AheadDriver) and tight.ahead > 0
    assert tight.core.stats().preemptions > 0
    assert [tight.tokens(name) for name in "ab"] == [plain.tokens(name) for name in "ab"]


def test_a_failure_amid_two_steps_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = AheadDriver()
    execute = RecordingExecutor.execute

    def failing(executor: RecordingExecutor, batch: StepBatch) -> StepOutput:
        if len(executor.steps) == 3:
            raise EngineError("the device is gone")
        return execute(executor, batch)

    monkeypatch.setattr(RecordingExecutor, "execute", failing)
    driver.add("a", 4, max_tokens=9)
    driver.add("b", 4, max_tokens=9)
    with pytest.raises(EngineError, match="the device is gone"):
        driver.run()
    deltas = driver.core.abort("error", "the device is gone")
    assert sorted(delta.request_id for delta in deltas) == ["a", "b"]
    driver.core.check_integrity()
    assert not driver.core.has_unfinished()


def test_one_that_is_cancelled_between_two_steps_gets_no_token_of_the_step_under_way() -> None:
    driver = AheadDriver()
    driver.add("a", 4, max_tokens=9)
    driver.add("b", 4, max_tokens=9)
    driver.step()
    driver.core.cancel("a")
    driver.run()
    assert (len(driver.tokens("a")), len(driver.tokens("b"))) == (1, 9)
    assert driver.last("a").finish_reason == "cancelled"
    driver.core.check_integrity()
