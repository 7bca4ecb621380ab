"""A bounded queue behind real servers: who is one too many is told so at once, in the words of the API called."""

from __future__ import annotations

import http.client
import json
import queue
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http_triton
from tritonclient.utils import InferenceServerException

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from inflight.triton_backend.openai.backends.triton import TritonBackend
from tests.endpoint.conftest import MODEL, running_shim, running_triton
from tests.endpoint.load.test_pressure import open_stream
from tests.endpoint.triton_calls import Stream, ids, make_inputs, metric
from tests.endpoint.triton_clients.nvidia_requests import queue_request
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

QUEUE, BATCH = 5, 8
FULL = QUEUE + BATCH
LONG = 60_000
WORDS = f"Maximum queue size of {QUEUE}"


@pytest.fixture(scope="module")
def bounded_triton(
    installation: TritonInstallation, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    overrides = {"max_queue_size": str(QUEUE)}
    with running_triton(installation, engine, tmp_path_factory.mktemp("bounded"), overrides) as server:
        yield server


@pytest.fixture(scope="module")
def plain_bounded_triton(
    installation: TritonInstallation, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    overrides = {"max_queue_size": str(QUEUE), "decoupled_mode": "false"}
    with running_triton(installation, engine, tmp_path_factory.mktemp("bounded"), overrides) as server:
        yield server


@dataclass(frozen=True)
class BoundedShim:
    """`waiting`: how many sequences wait in the engine's queue; `active`: those and the running ones."""

    url: str
    waiting: Callable[[], float]
    active: Callable[[], float]

    @contextmanager
    def filled(self) -> Iterator[ExitStack]:
        """The batch is full of streams that have begun."""
        with ExitStack() as streams:
            for number in range(BATCH):
                body = {"prompt": f"fox {number}", "max_tokens": LONG}
                assert streams.enter_context(open_stream(self.url, body)).status == 200
            yield streams
        assert eventually(lambda: self.active() == 0)


@pytest.fixture(scope="module", params=["embedded", "triton"])
def bounded_shim(request: pytest.FixtureRequest, engine: Path) -> Iterator[BoundedShim]:
    if request.param == "embedded":
        thread = EngineThread(EngineCore(load_engine(engine), SchedulerConfig(max_queue_size=QUEUE)))
        with running_shim(engine, EmbeddedBackend(thread), max_queue_size=QUEUE) as url:
            yield BoundedShim(
                url, lambda: thread.stats().waiting, lambda: thread.stats().waiting + thread.stats().running
            )
    else:
        server: TritonServer = request.getfixturevalue("bounded_triton")
        with running_shim(engine, TritonBackend(server.address.grpc_url), max_queue_size=QUEUE) as url:
            yield BoundedShim(url, lambda: waiting(server), lambda: active(server))


def waiting(server: TritonServer) -> float:
    return metric(server, "nv_trt_llm_request_metrics", request_type="waiting")


def active(server: TritonServer) -> float:
    return metric(server, "nv_trt_llm_request_metrics", request_type="active")


@contextmanager
def sent(shim: str, stream: bool = False) -> Iterator[None]:
    """A request that is sent and not read; its client leaves at the end."""
    host, port = shim.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
    body = {"prompt": "a", "max_tokens": LONG, "ignore_eos": True, "stream": stream}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    try:
        yield
    finally:
        connection.close()


def test_a_burst_fills_batch_and_queue_and_the_rest_is_refused(bounded_triton: TritonServer) -> None:
    """What NVIDIA's test_max_queue_size.py does with --protocol grpc: 300 requests at once, a queue of 5."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpc.InferenceServerClient(bounded_triton.address.grpc_url) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        inputs = make_inputs(grpc, queue_request([5, 6, 7], 1_000))
        for number in range(300):
            client.async_stream_infer("tensorrt_llm", inputs, request_id=str(number))
        errors = [error for _, error in (answers.get(timeout=PATIENCE_S) for _ in range(300)) if error is not None]
        client.stop_stream(cancel_requests=True)
    assert all("Exceeds maximum queue size" in str(error) and WORDS in str(error) for error in errors)
    # Some may have ended before the last came.
    assert 100 <= len(errors) <= 300 - FULL
    assert eventually(lambda: active(bounded_triton) == 0)


@pytest.mark.parametrize("decoupled", [True, False], ids=["beside the decoupled", "alone"])
def test_a_burst_over_http_is_answered_or_refused_each(request: pytest.FixtureRequest, decoupled: bool) -> None:
    """The same with --protocol http."""
    server: TritonServer = request.getfixturevalue("bounded_triton" if decoupled else "plain_bounded_triton")
    model, count = "tensorrt_llm_unary" if decoupled else "tensorrt_llm", 80
    url, tokens = server.address.http_url.removeprefix("http://"), 4_000
    found: Counter[str] = Counter()
    with http_triton.InferenceServerClient(url, concurrency=count, network_timeout=PATIENCE_S) as client:
        inputs = make_inputs(http_triton, queue_request([5, 6, 7], tokens))
        for waiting_for in [client.async_infer(model, inputs) for _ in range(count)]:
            try:
                lengths = waiting_for.get_result(timeout=PATIENCE_S).as_numpy("sequence_length")
                assert lengths.tolist() == [[3 + tokens]]
                found["answered"] += 1
            except InferenceServerException as error:
                assert "Exceeds maximum queue size" in error.message() and WORDS in error.message()
                found["refused"] += 1
    assert found["answered"] >= FULL and found["refused"] > 0
    assert eventually(lambda: active(server) == 0)


def test_refusals_over_http_and_unary_grpc_have_the_code_of_an_overload(plain_bounded_triton: TritonServer) -> None:
    address = plain_bounded_triton.address
    tokens = 600
    inputs = ids([5, 6, 7], tokens, end_id=-1)

    def call(number: int) -> str:
        if number % 3 == 0:
            with http_triton.InferenceServerClient(address.http_url.removeprefix("http://")) as client:
                try:
                    client.infer("tensorrt_llm", make_inputs(http_triton, inputs))
                except InferenceServerException as error:
                    assert WORDS in error.message()
                    return f"infer {error.status()}"
                return "ok"
        if number % 3 == 1:
            body = {"input_ids": [5, 6, 7], "input_lengths": 3, "request_output_len": tokens, "end_id": -1}
            request = urllib.request.Request(
                f"{address.http_url}/v2/models/tensorrt_llm/generate", json.dumps(body).encode()
            )
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S):
                    return "ok"
            except urllib.error.HTTPError as error:
                assert WORDS in error.read().decode()
                return f"generate {error.code}"
        with grpc.InferenceServerClient(address.grpc_url) as client:
            try:
                client.infer("tensorrt_llm", make_inputs(grpc, inputs))
            except InferenceServerException as error:
                assert WORDS in error.message()
                return str(error.status())
        return "ok"

    with ThreadPoolExecutor(60) as pool:
        found = Counter(pool.map(call, range(60)))
    assert set(found) - {"generate 503"} == {"ok", "infer 503", "generate 400", "StatusCode.UNAVAILABLE"}
    assert FULL <= found["ok"] < 60


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_models_of_text_pass_the_refusal_on(bounded_triton: TritonServer, model: str) -> None:
    with ExitStack() as streams:
        for _ in range(FULL):
            opened = streams.enter_context(Stream(bounded_triton))
            opened.send("tensorrt_llm", ids([5, 6, 7], LONG, end_id=-1, streaming=True))
        assert eventually(lambda: (active(bounded_triton), waiting(bounded_triton)) == (FULL, QUEUE))
        with Stream(bounded_triton) as late:
            late.send(model, {"text_input": "fox", "max_tokens": 5})
            with pytest.raises(InferenceServerException, match=WORDS):
                late.receive()
        body = json.dumps({"text_input": "fox", "max_tokens": 5}).encode()
        url = f"{bounded_triton.address.http_url}/v2/models/{model}/generate"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, body), timeout=PATIENCE_S)
        assert refused.value.code in (400, 503)  # Triton 2.51 has one status for all errors of /generate
        with http_triton.InferenceServerClient(bounded_triton.address.http_url.removeprefix("http://")) as client:
            with pytest.raises(InferenceServerException, match=WORDS) as unary:
                client.infer(f"{model}_unary", make_inputs(http_triton, {"text_input": "fox", "max_tokens": 5}))
            assert unary.value.status() == "503"
    assert eventually(lambda: active(bounded_triton) == 0)


def test_a_full_queue_is_429_with_retry_after(bounded_shim: BoundedShim) -> None:
    client = openai.OpenAI(base_url=f"{bounded_shim.url}/v1", api_key="none", max_retries=0)
    with bounded_shim.filled() as more:
        for number in range(QUEUE):
            more.enter_context(sent(bounded_shim.url, stream=number % 2 == 0))
        assert eventually(lambda: bounded_shim.waiting() == QUEUE)
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as refused:
                client.completions.create(model=MODEL, prompt="fox", max_tokens=2, stream=stream)
            assert refused.value.response.headers["retry-after"] == "1"
            assert (refused.value.type, refused.value.code) == ("requests", "rate_limit_exceeded")
            assert WORDS in refused.value.message
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "fox"}], max_tokens=2)
    assert client.completions.create(model=MODEL, prompt="fox", max_tokens=2).choices


def test_who_leaves_while_queued_makes_room(bounded_shim: BoundedShim) -> None:
    with bounded_shim.filled() as more:
        with sent(bounded_shim.url), sent(bounded_shim.url):
            assert eventually(lambda: bounded_shim.waiting() == 2)
        assert eventually(lambda: bounded_shim.waiting() == 0)
        for _ in range(QUEUE):
            more.enter_context(sent(bounded_shim.url))
        assert eventually(lambda: bounded_shim.waiting() == QUEUE)


def test_a_request_of_several_is_refused_whole(bounded_shim: BoundedShim) -> None:
    client = openai.OpenAI(base_url=f"{bounded_shim.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
    several: list[dict[str, Any]] = [{"prompt": ["fox"] * (QUEUE + 1)}, {"prompt": "fox", "n": QUEUE + 1}]
    with bounded_shim.filled():
        for body in several:
            for stream in (False, True):
                with pytest.raises(openai.RateLimitError):
                    client.completions.create(model=MODEL, max_tokens=2, stream=stream, **body)
        assert eventually(lambda: bounded_shim.waiting() == 0)


def test_what_batch_and_queue_can_never_hold_is_no_overload(
    bounded_shim: BoundedShim, rng: np.random.Generator
) -> None:
    """However its sequences come about, and the parameter that makes them is named. What just fits is answered."""
    client = openai.OpenAI(base_url=f"{bounded_shim.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
    n = int(rng.integers(2, FULL // 2))
    message = [{"role": "user", "content": "fox"}]
    for make, body, param in (
        (client.completions.create, {"prompt": ["fox"] * (FULL + 1)}, "prompt"),
        (client.completions.create, {"prompt": ["fox"] * (FULL // n + 1), "n": n}, "n"),
        (client.completions.create, {"prompt": "fox", "n": FULL + 1}, "n"),
        (client.completions.create, {"prompt": "fox", "best_of": FULL + 1}, "best_of"),
        (client.chat.completions.create, {"messages": message, "n": FULL + 1}, "n"),
    ):
        create: Any = make
        for stream in (False, True) if "best_of" not in body else (False,):
            with pytest.raises(openai.BadRequestError, match=r"\d+ sequences; the batch takes 8 and the queue 5") as no:
                create(model=MODEL, max_tokens=2, stream=stream, **body)
            assert no.value.param == param and "retry-after" not in no.value.response.headers
    assert len(client.completions.create(model=MODEL, prompt=["fox"] * FULL, max_tokens=2).choices) == FULL
    assert eventually(lambda: bounded_shim.active() == 0)
