"""TGI's --waiting-served-ratio and --max-waiting-tokens: when requests start beside those that run."""

from __future__ import annotations

import numpy as np
import pytest

from inflight.errors import EngineError
from inflight.runtime.scheduler.admission import Waiting, waiting_rule
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from tests.unit.runtime.core_driver import Driver

pytestmark = pytest.mark.unit


def driver(rule: Waiting | None, running: int, batch: int = 16, **config: str) -> Driver:
    """With so many sequences that run, the last of which started in the step before."""
    made = Driver(512, SchedulerConfig(waiting=rule, **config), max_batch_size=batch, max_num_tokens=512)  # type: ignore[arg-type]
    for number in range(running):
        made.add(f"running{number}", 4, max_tokens=60)
    made.step()
    return made


def steps_until_start(made: Driver, name: str) -> int:
    """In which step its prompt is computed, from 1."""
    for number in range(1, 100):
        made.step()
        if made.deltas[name, 0]:
            return number
    raise AssertionError(f"{name} never starts")


@pytest.mark.parametrize(("ratio", "running"), [(0.3, 7), (1.2, 5), (0.5, 4), (0.7, 10)])
def test_requests_start_when_enough_wait(ratio: float, running: int) -> None:
    """As many as TGI asks for: the product, rounded down as 32-bit numbers are."""
    wanted = int(np.floor(np.float32(running) * np.float32(ratio)))
    made = driver(Waiting(ratio, 1000), running, batch=32)
    for number in range(wanted):
        assert made.core.stats().waiting == number
        made.add(f"late{number}", 4, max_tokens=2)
        if number < wanted - 1:
            made.step()
            assert made.core.stats().running == running
    made.step()
    assert made.core.stats().running == running + wanted and made.core.stats().waiting == 0


@pytest.mark.parametrize("most", [0, 1, 2, 5, 20])
def test_nobody_waits_for_more_steps_than_allowed(most: int) -> None:
    made = driver(Waiting(1.0, most), 8)
    made.add("late", 4, max_tokens=40)
    assert steps_until_start(made, "late") == max(most, 1)
    made.step()
    made.add("later", 4, max_tokens=4)
    assert steps_until_start(made, "later") == max(most - 1, 1), "counted from the start before"


def test_nobody_waits_when_none_runs_or_the_ratio_is_nothing_or_not_set() -> None:
    idle = driver(Waiting(5.0, 100), 0)
    idle.add("first", 4, max_tokens=3)
    assert steps_until_start(idle, "first") == 1
    for rule in (None, Waiting(0.0, 100), Waiting(0.1, 100)):
        made = driver(rule, 8)
        made.add("late", 4, max_tokens=3)
        assert steps_until_start(made, "late") == 1
    waits = driver(Waiting(1.0, 100), 2)
    waits.add("late", 4, max_tokens=3)
    assert steps_until_start(waits, "late") == 60, "it starts when the others have ended"


def test_those_without_a_slot_do_not_count() -> None:
    made = driver(Waiting(0.5, 30), 6, batch=8)
    for number in range(5):
        made.add(f"late{number}", 4, max_tokens=3)
    assert steps_until_start(made, "late0") == 30


def test_a_preempted_sequence_waits_for_nobody() -> None:
    """It comes back when there is room, as without the rule."""
    found = []
    for rule in (None, Waiting(10.0, 1000)):
        config = SchedulerConfig(policy="max_utilization", enable_prefix_caching=False, waiting=rule)
        made = Driver(10, config, tokens_per_block=4, max_seq_len=40)
        for name in "abc":
            made.add(name, 8, max_tokens=12)
        made.run()
        metrics = [made.last(name).metrics for name in "abc"]
        assert sum(each.preemptions for each in metrics if each is not None) > 0
        found.append((len(made.executor.steps), made.finish_order()))
    assert found[0] == found[1]


def test_one_flag_gives_the_other_tgis_default() -> None:
    assert waiting_rule(None, None) is None
    assert waiting_rule(1.5, None) == Waiting(1.5, 20) and waiting_rule(None, 4) == Waiting(0.3, 4)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(EngineError, match="waiting-served-ratio is"):
            waiting_rule(wrong, 3)
        with pytest.raises(ValueError, match="waiting"):
            SchedulerConfig(waiting=Waiting(-abs(wrong), -1))
