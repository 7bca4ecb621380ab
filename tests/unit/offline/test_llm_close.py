"""Ending an LLM: while others use it, when it could not be made, and by a signal."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from inflight.errors import EngineError, InflightError
from inflight.runtime import LLM, KvCacheBudget, SamplingParams
from inflight.runtime.executors.base import Executor
from inflight.runtime.executors.null.executor import NullExecutor
from inflight.runtime.loading.load import load_engine
from inflight.runtime.offline.interrupts import deferred_interrupt
from inflight.runtime.scheduler.step import StepBatch, StepOutput
from inflight.runtime.text.tokenizer import load_tokenizer
from tests.engines.null_engine import write_null_engine
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.unit

LONG = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
SHORT = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_null_engine(tmp_path / "engine")


class SlowSteps:
    """The null executor, whose steps last until they are let go; `broken` tells that it was closed inside of one."""

    def __init__(self, inner: Executor) -> None:
        self.manifest, self.num_blocks, self._inner = inner.manifest, inner.num_blocks, inner
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.broken = self.closed = False

    def execute(self, batch: StepBatch) -> StepOutput:
        if self.closed:
            raise EngineError("The engine is closed.")
        self.inside.set()
        assert self.go_on.wait(PATIENCE_S)
        self.broken |= self.closed
        return self._inner.execute(batch)

    def close(self) -> None:
        self.closed = True

    def was_closed(self) -> bool:
        return self.closed


def test_closing_waits_for_the_step_of_another_thread_whose_caller_is_then_told(engine: Path) -> None:
    executor = SlowSteps(load_engine(engine, kv_cache=KvCacheBudget(tokens=2048)))
    llm = LLM.from_executor(executor, load_tokenizer(engine / "tokenizer"))
    errors: list[BaseException] = []

    def generate() -> None:
        try:
            llm.generate("the fox", LONG)
        except EngineError as error:
            errors.append(error)

    caller = threading.Thread(target=generate)
    caller.start()
    assert executor.inside.wait(PATIENCE_S)
    closer = threading.Thread(target=llm.close)
    closer.start()
    closer.join(0.1)
    assert closer.is_alive() and not executor.was_closed()
    executor.go_on.set()
    closer.join(PATIENCE_S)
    caller.join(PATIENCE_S)
    assert executor.was_closed() and not executor.broken
    assert [str(error) for error in errors] in ([], ["The engine is closed."])
    llm.close()


def test_an_engine_whose_tokenizer_cannot_be_read_is_closed_again(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Executor] = []
    monkeypatch.setattr(NullExecutor, "close", lambda executor: closed.append(executor))
    monkeypatch.setenv("INFLIGHT_VERIFY", "never")
    (engine / "tokenizer" / "tokenizer_config.json").write_text("{")
    with pytest.raises(InflightError, match="not valid JSON"):
        LLM(engine)
    assert len(closed) == 1


class Interrupting:
    """The null executor, with Ctrl-C pressed in the middle of its third step."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner
        self.manifest, self.num_blocks, self.close = inner.manifest, inner.num_blocks, inner.close
        self.steps = 0

    def execute(self, batch: StepBatch) -> StepOutput:
        self.steps += 1
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return self._inner.execute(batch)


def test_ctrl_c_cancels_and_the_llm_goes_on(engine: Path) -> None:
    with LLM(engine) as plain:
        executor = Interrupting(load_engine(engine))
        llm = LLM.from_executor(executor, plain.tokenizer)
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["one", "two"], LONG)
        stats = llm.stats()
        assert (stats.running, stats.waiting, stats.used_blocks) == (0, 0, 0)
        assert executor.steps < 10
        assert llm.generate("one", SHORT)[0].outputs == plain.generate("one", SHORT)[0].outputs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_the_end_of_the_step_and_a_second_one_does_not(number: signal.Signals) -> None:
    class Stop(Exception):
        """What the handler raises."""

    def stop(*arguments: object) -> None:
        raise Stop

    previous = signal.signal(number, stop)
    try:
        done = []
        with pytest.raises(Stop), deferred_interrupt():
            os.kill(os.getpid(), number)
            done.append("first")
        assert done == ["first"] and signal.getsignal(number) is stop
        with pytest.raises(Stop), deferred_interrupt():
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            done.append("second")
        assert done == ["first"] and signal.getsignal(number) is stop
    finally:
        signal.signal(number, previous)


def test_a_signal_without_a_handler_in_python_is_left_alone() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with deferred_interrupt():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
