"""The engine on its own thread: many callers, failures, and a clean end."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator

import pytest

from inflight.errors import EngineError, RequestError
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.request.deltas import TokenDelta
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from tests.engines.overlapping import Overlapping
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit


class GatedExecutor(NullExecutor):
    """A null executor that waits for the gate before each step, shuts it after step `last`, and fails when told to."""

    def __init__(self) -> None:
        super().__init__(null_manifest(max_batch_size=16, max_num_tokens=256), 128)
        self.gate, self.shut = threading.Event(), threading.Event()
        self.gate.set()
        self.failure: BaseException | None = None
        self.steps = 0
        self.last: int | None = None
        self.closed = False

    def execute(self, batch: StepBatch) -> StepOutput:
        assert self.gate.wait(PATIENCE_S)
        self.steps += 1
        if self.steps == self.last:
            self.gate.clear()
            self.shut.set()
        if self.failure is not None:
            raise self.failure
        return super().execute(batch)

    def close(self) -> None:
        self.closed = True


class Inbox:
    """Collects deltas; `finished` is set with the last delta of the last of `sequences`."""

    def __init__(self, sequences: int = 1) -> None:
        self.deltas: dict[tuple[str, int], list[TokenDelta]] = defaultdict(list)
        self.started, self.finished = threading.Event(), threading.Event()
        self._left = sequences

    def __call__(self, delta: TokenDelta) -> None:
        self.deltas[delta.request_id, delta.index].append(delta)
        self.started.set()
        if delta.finish_reason is not None:
            self._left -= 1
            if self._left == 0:
                self.finished.set()

    def reasons(self) -> list[str | None]:
        assert self.finished.wait(PATIENCE_S)
        return [deltas[-1].finish_reason for _, deltas in sorted(self.deltas.items())]


def _request(name: str, max_tokens: int = 5, n: int = 1) -> Request:
    return Request(name, (1, 2, 3), SamplingParams(max_tokens=max_tokens, n=n, seed=1))


@pytest.fixture
def executor() -> GatedExecutor:
    return GatedExecutor()


@pytest.fixture(params=[False, True], ids=["one step at a time", "overlapping steps"])
def engine(request: pytest.FixtureRequest, executor: GatedExecutor) -> Iterator[EngineThread]:
    engine = EngineThread(EngineCore(Overlapping(executor) if request.param else executor))
    yield engine
    executor.gate.set()
    engine.close()


def test_a_request_is_answered(engine: EngineThread) -> None:
    inbox = Inbox(2)
    engine.submit(_request("r", n=2), inbox)
    assert inbox.reasons() == ["length", "length"]
    assert [len(deltas) for deltas in inbox.deltas.values()] == [5, 5]


def test_thousands_of_requests_from_many_threads_are_each_answered_once(engine: EngineThread) -> None:
    inboxes = {f"{thread}-{number}": Inbox() for thread in range(8) for number in range(250)}

    def submit(thread: int) -> None:
        for number in range(250):
            name = f"{thread}-{number}"
            engine.submit(_request(name, max_tokens=2), inboxes[name])
            if number % 5 == 0:
                engine.cancel(name)

    threads = [threading.Thread(target=submit, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, inbox in inboxes.items():
        (reason,) = inbox.reasons()
        assert reason == "length" or (reason == "cancelled" and int(name.split("-")[1]) % 5 == 0)
        finals = [delta for delta in inbox.deltas[name, 0] if delta.finish_reason is not None]
        assert len(finals) == 1


def test_an_invalid_request_is_refused_in_the_caller_and_hurts_nobody(engine: EngineThread) -> None:
    inbox = Inbox()
    with pytest.raises(RequestError, match="max_tokens is 5000"):
        engine.submit(_request("r", max_tokens=5000), inbox)
    engine.submit(_request("r"), inbox)
    assert inbox.reasons() == ["length"]


def test_an_id_in_use_is_refused(engine: EngineThread, executor: GatedExecutor) -> None:
    executor.gate.clear()
    inbox = Inbox()
    engine.submit(_request("r"), inbox)
    with pytest.raises(RequestError, match="id r is running"):
        engine.submit(_request("r"), Inbox())
    executor.gate.set()
    assert inbox.reasons() == ["length"]


def test_an_id_can_be_used_again_from_the_callback_of_its_last_delta(engine: EngineThread) -> None:
    second = Inbox()

    def first(delta: TokenDelta) -> None:
        if delta.finish_reason is not None:
            engine.submit(_request("r"), second)

    engine.submit(_request("r"), first)
    assert second.reasons() == ["length"]


def test_cancelling_ends_a_running_request_and_nobody_else(engine: EngineThread, executor: GatedExecutor) -> None:
    cancelled, other = Inbox(), Inbox()
    executor.last = 3
    engine.submit(_request("cancelled", max_tokens=500), cancelled)
    engine.submit(_request("other", max_tokens=100), other)
    # Opened before it is shut, the gate would stay shut for ever.
    assert cancelled.started.wait(PATIENCE_S) and executor.shut.wait(PATIENCE_S)
    engine.cancel("cancelled")
    engine.cancel("nobody")
    executor.gate.set()
    assert cancelled.reasons() == ["cancelled"]
    assert other.reasons() == ["length"]


def test_the_thread_sleeps_while_there_is_nothing_to_do(engine: EngineThread, executor: GatedExecutor) -> None:
    inbox = Inbox()
    engine.submit(_request("r"), inbox)
    assert inbox.reasons() == ["length"]
    assert executor.steps == 5
    engine.cancel("r")
    assert engine.healthy
    again = Inbox()
    engine.submit(_request("r"), again)
    assert again.reasons() == ["length"]
    assert executor.steps == 10


def test_a_failing_executor_answers_everybody_with_the_cause(engine: EngineThread, executor: GatedExecutor) -> None:
    executor.gate.clear()
    inboxes = [Inbox(2) for _ in range(50)]
    for number, inbox in enumerate(inboxes):
        engine.submit(_request(f"r{number}", n=2), inbox)
    executor.failure = EngineError("the device is gone")
    executor.gate.set()
    for inbox in inboxes:
        assert inbox.reasons() == ["error", "error"]
        assert {deltas[-1].error for deltas in inbox.deltas.values()} == {"the device is gone"}
    assert not engine.healthy
    assert engine.failure is executor.failure
    with pytest.raises(EngineError, match="The engine has stopped: the device is gone"):
        engine.submit(_request("late"), Inbox())


def test_a_callback_that_raises_loses_its_request_alone(engine: EngineThread) -> None:
    calls: list[TokenDelta] = []

    def broken(delta: TokenDelta) -> None:
        calls.append(delta)
        raise ValueError("a broken callback")

    other = Inbox()
    engine.submit(_request("broken", max_tokens=400), broken)
    engine.submit(_request("other", max_tokens=50), other)
    assert other.reasons() == ["length"]
    assert engine.healthy
    again = Inbox()
    while True:  # the cancelled request gives its id back at the next step boundary
        try:
            engine.submit(_request("broken"), again)
            break
        except RequestError:
            continue
    assert again.reasons() == ["length"]
    assert len(calls) == 1, "a callback that raised is not called again"


def test_closing_cancels_what_is_unfinished_and_closes_the_executor(
    engine: EngineThread, executor: GatedExecutor
) -> None:
    executor.gate.clear()
    inboxes = [Inbox() for _ in range(40)]
    for number, inbox in enumerate(inboxes):
        engine.submit(_request(f"r{number}"), inbox)
    closing = threading.Thread(target=engine.close)
    closing.start()
    while engine.healthy:
        pass
    executor.gate.set()
    closing.join(PATIENCE_S)
    assert {reason for inbox in inboxes for reason in inbox.reasons()} == {"cancelled"}
    assert executor.closed
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.submit(_request("late"), Inbox())


def test_stats_are_those_of_the_last_step(engine: EngineThread, executor: GatedExecutor) -> None:
    inbox = Inbox()
    engine.submit(_request("r"), inbox)
    assert inbox.reasons() == ["length"]
    engine.close()
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.output_tokens, stats.iterations) == (0, 0, 5, 5)
