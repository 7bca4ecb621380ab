"""The thread that sends a Triton model's responses: one that fails takes no other with it."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.errors import InflightError
from inflight.runtime.beam_search.requests import OnDelta
from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.load import load_engine
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams
from inflight.triton_backend.tensorrt_llm.generation_request import ModelDefaults, read_request
from inflight.triton_backend.tensorrt_llm.response_sender import ResponseSender
from inflight.triton_backend.tensorrt_llm.response_stream import ResponseStream
from inflight.triton_backend.wire.request_tensors import RowTensors
from tests.engines.null_engine import write_null_engine
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.unit


class Channel:
    """Where responses go. `broken` names the method that raises, as Triton's does for a client that is gone."""

    def __init__(self, broken: str = "") -> None:
        self._broken = broken
        self.responses: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self.failed, self.client_is_gone = threading.Event(), threading.Event()
        self.errors: list[str] = []

    def send(self, tensors: dict[str, Any], final: bool) -> None:
        self._maybe_raise("send")
        self.responses.put((int(tensors["sequence_length"].reshape(-1)[0]), final))

    def send_error(self, error: InflightError) -> None:
        self.errors.append(str(error))
        self._maybe_raise("send")

    def is_cancelled(self) -> bool:
        self._maybe_raise("is_cancelled")
        return self.client_is_gone.is_set()

    def _maybe_raise(self, method: str) -> None:
        if method == self._broken:
            self.failed.set()
            raise RuntimeError("the response sender is closed")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineThread]:
    engine = EngineThread(EngineCore(load_engine(write_null_engine(tmp_path / "engine", max_seq_len=1 << 16))))
    yield engine
    engine.close()


def fail_to_count() -> None:
    raise RuntimeError("no statistics")


@pytest.fixture
def sender(engine: EngineThread) -> Iterator[ResponseSender]:
    sender = ResponseSender(engine, 0.01, fail_to_count)
    yield sender
    sender.close()


def stream(channel: Channel, tokens: int) -> ResponseStream:
    tensors = {
        "input_ids": np.array([[5, 6, 7]], np.int32),
        "input_lengths": np.array([[3]], np.int32),
        "request_output_len": np.array([[tokens]], np.int32),
        "streaming": np.array([[True]]),
        "ignore_eos": np.array([[True]]),
    }
    row = read_request(RowTensors(tensors, 0), uuid.uuid4().hex, ModelDefaults((), 64))
    return ResponseStream(channel, [row], "", lambda prompt, output: None)


def tokens_received(channel: Channel) -> int:
    """All that come, up to the final response."""
    total, final = 0, False
    while not final:
        length, final = channel.responses.get(timeout=PATIENCE_S)
        total += length
    return total


@pytest.mark.parametrize("method", ["send", "is_cancelled"])
def test_a_stream_that_cannot_be_sent_is_cancelled_and_the_others_go_on(
    sender: ResponseSender, engine: EngineThread, method: str
) -> None:
    broken = Channel(method)
    before, after = Channel(), Channel()
    sender.submit(stream(before, 40))
    sender.submit(stream(broken, 60_000))
    assert broken.failed.wait(PATIENCE_S)
    sender.submit(stream(after, 30))
    assert tokens_received(before) == 40 and tokens_received(after) == 30
    assert eventually(lambda: engine.stats().running == 0)
    assert engine.stats().used_blocks == 0
    assert broken.errors == ["The response could not be made or sent: the response sender is closed"]


class LateEngine(EngineThread):
    """An engine that gets a request when it was cancelled already."""

    def __init__(self, core: EngineCore) -> None:
        super().__init__(core)
        self._cancelled = threading.Event()

    def submit_all(self, requests: Sequence[Request], on_delta: OnDelta) -> None:
        assert self._cancelled.wait(PATIENCE_S)
        super().submit_all(requests, on_delta)

    def cancel(self, request_id: str, index: int | None = None) -> None:
        super().cancel(request_id, index)
        self._cancelled.set()


@pytest.mark.parametrize("method", ["", "is_cancelled"])
def test_a_stream_that_ends_before_the_engine_has_its_request_is_cancelled_all_the_same(
    tmp_path: Path, method: str
) -> None:
    """Its client has gone, or could not be asked whether it has."""
    core = EngineCore(load_engine(write_null_engine(tmp_path / "engine", max_seq_len=1 << 16)))
    engine, channel = LateEngine(core), Channel(method)
    channel.client_is_gone.set()
    sender = ResponseSender(engine, 0.01, fail_to_count)
    sender.submit(stream(channel, 60_000))
    sender.close()
    finished = threading.Event()
    params = SamplingParams(max_tokens=3)
    engine.submit(Request("after", (5, 6), params), lambda delta: finished.set() if delta.finish_reason else None)
    assert finished.wait(PATIENCE_S)
    assert engine.stats().running == 0
    engine.close()
