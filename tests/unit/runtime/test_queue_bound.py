"""A bounded queue: how much it takes, what counts, and that a place is free again at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from inflight.errors import OverloadedError, RequestError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from tests.patience import PATIENCE_S, eventually
from tests.unit.runtime.core_driver import Driver
from tests.unit.runtime.test_engine_thread import GatedExecutor, Inbox

pytestmark = pytest.mark.unit


def accepted(driver: Driver, count: int, prefix: str, **params: int) -> int:
    """How many of so many equal requests are taken; once one is refused all are."""
    taken = 0
    for number in range(count):
        try:
            driver.add(f"{prefix}{number}", 20, **params)
        except OverloadedError as error:
            assert "Exceeds maximum queue size" in str(error) and "Maximum queue size of 5 has been reached" in str(
                error
            )
        else:
            assert taken == number
            taken += 1
    return taken


def bounded(size: int = 5, num_blocks: int = 64) -> Driver:
    return Driver(num_blocks, SchedulerConfig(max_queue_size=size), max_batch_size=8, max_num_tokens=16)


def test_the_batch_fills_first_then_the_queue() -> None:
    driver = bounded()
    assert accepted(driver, 100, "first", max_tokens=8) == 13
    driver.step()  # the batch has slots yet: its tokens are what kept the others out
    assert accepted(driver, 100, "second", max_tokens=8) == 0
    driver.run()
    assert accepted(driver, 100, "third", max_tokens=8) == 13


def test_where_the_cache_is_full_what_waits_counts() -> None:
    driver = bounded(num_blocks=8)  # of 16 tokens: two sequences of 64
    assert accepted(driver, 2, "running", max_tokens=44) == 2
    for _ in range(4):
        driver.step()
    assert driver.core.stats().running == 2
    assert accepted(driver, 1, "noticed", max_tokens=44) == 1
    driver.step()
    assert accepted(driver, 100, "waiting", max_tokens=44) == 4
    assert driver.core.stats().waiting == 5
    driver.run()


@pytest.mark.parametrize("left", ["running", "nothing"])
def test_a_cache_that_was_full_is_no_longer_when_nothing_waits(left: str) -> None:
    driver = bounded(num_blocks=8)
    accepted(driver, 3, "a", max_tokens=44)
    for _ in range(4):
        driver.step()
    assert driver.core.stats().waiting == 1
    for name in ("a2",) if left == "running" else ("a2", "a1", "a0"):
        driver.core.cancel(name)
    driver.step()
    assert accepted(driver, 100, "b", max_tokens=44) == (11 if left == "running" else 13)


def test_a_request_counts_by_sequence_and_is_refused_whole() -> None:
    driver = bounded()
    driver.add("ten", 3, n=10)
    with pytest.raises(OverloadedError):
        driver.add("four", 3, n=4)
    driver.add("three", 3, n=3)
    with pytest.raises(OverloadedError):
        driver.add("one", 3)
    driver.run()
    assert {name for name, _ in driver.deltas} == {"ten", "three"}
    with pytest.raises(RequestError, match="14 sequences; the batch takes 8 and the queue 5"):
        driver.add("fourteen", 3, n=14)


def test_no_size_is_no_bound() -> None:
    driver = bounded(0)
    assert accepted(driver, 500, "a", max_tokens=1) == 500
    with pytest.raises(ValueError, match="max_queue_size is -1"):
        SchedulerConfig(max_queue_size=-1)


@pytest.fixture
def executor() -> GatedExecutor:
    return GatedExecutor()


@pytest.fixture
def engine(executor: GatedExecutor) -> Iterator[EngineThread]:
    """A batch of 16, a queue of 4, and the gate shut."""
    executor.gate.clear()
    engine = EngineThread(EngineCore(executor, SchedulerConfig(max_queue_size=4)))
    yield engine
    executor.gate.set()
    engine.close()


_numbers = itertools.count()


def _request(n: int = 1, max_tokens: int = 200) -> Request:
    return Request(f"r{next(_numbers)}", (1, 2, 3), SamplingParams(max_tokens=max_tokens, n=n, seed=1))


def fill(engine: EngineThread, inbox: Inbox) -> list[Request]:
    """Fill batch and queue while a step is under way."""
    requests = [_request() for _ in range(20)]
    engine.submit(requests[0], inbox)
    assert eventually(lambda: engine.stats().running == 1)
    for request in requests[1:]:
        engine.submit(request, inbox)
    return requests


def test_a_refusal_does_not_wait_for_the_step(engine: EngineThread, executor: GatedExecutor) -> None:
    inbox = Inbox(20)
    fill(engine, inbox)
    with pytest.raises(OverloadedError):
        engine.submit(_request(), inbox)
    assert (engine.stats().running, engine.stats().waiting) == (1, 19)
    executor.gate.set()
    assert inbox.reasons() == ["length"] * 20


def test_a_waiting_request_leaves_the_queue_while_a_step_runs(engine: EngineThread, executor: GatedExecutor) -> None:
    inbox, late = Inbox(20), Inbox()
    requests = fill(engine, inbox)
    for leaving in (requests[7], requests[19]):
        engine.cancel(leaving.request_id)
        assert engine.stats().waiting == 18
        engine.submit(_request(), late)
        with pytest.raises(OverloadedError):
            engine.submit(_request(), inbox)
    executor.gate.set()
    assert sorted(str(reason) for reason in inbox.reasons()) == ["cancelled"] * 2 + ["length"] * 18
    assert late.finished.wait(PATIENCE_S)


def test_a_running_request_keeps_its_place_until_the_step_ends(engine: EngineThread, executor: GatedExecutor) -> None:
    inbox = Inbox(20)
    requests = fill(engine, inbox)
    used = engine.stats().used_blocks
    engine.cancel(requests[0].request_id)
    assert (engine.stats().running, engine.stats().used_blocks) == (1, used)
    with pytest.raises(OverloadedError):
        engine.submit(_request(), inbox)
    executor.gate.set()
    assert inbox.reasons().count("cancelled") == 1


def test_several_requests_are_queued_together_or_not_at_all(engine: EngineThread, executor: GatedExecutor) -> None:
    inbox = Inbox(20)
    # Of 20 tokens, which all have blocks at once: the step that may begin meanwhile changes no bound.
    engine.submit_all([_request(3, 20) for _ in range(5)], inbox)
    before = engine.stats()
    with pytest.raises(OverloadedError):
        engine.submit_all([_request(), _request(2), _request(3)], Inbox())
    after = engine.stats()
    assert after.running + after.waiting + after.held == before.running + before.waiting + before.held == 15
    engine.submit_all([_request(2, 20), _request(3, 20)], inbox)
    executor.gate.set()
    assert inbox.reasons() == ["length"] * 20
