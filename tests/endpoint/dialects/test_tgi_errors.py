"""TGI's 429 of a full queue and its 424 of an engine that fails, as huggingface_hub raises them."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError, OverloadedError

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.load import load_engine
from inflight.runtime.scheduler.scheduler import SchedulerConfig
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from tests.endpoint.conftest import running_shim
from tests.endpoint.openai_api.test_openai_api import metric
from tests.endpoint.operations.failing_engine import CAUSE, FailingExecutor
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

LONG = 60_000


def test_a_full_queue_is_overloaded(engine: Path) -> None:
    executor = load_engine(engine, threads=1)
    batch = executor.manifest.limits.max_batch_size
    config = SchedulerConfig(max_queue_size=1)
    backend = EmbeddedBackend(EngineThread(EngineCore(executor, config)))
    with running_shim(engine, backend, max_queue_size=1) as url, ExitStack() as stack:
        for number in range(batch + 1):
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
            stack.callback(connection.close)
            body = json.dumps({"prompt": "fox", "max_tokens": LONG, "ignore_eos": True, "stream": True})
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            if number < batch:
                stack.enter_context(connection.getresponse()).readline()
        assert eventually(lambda: metric(url, "inflight_engine_waiting") == 1)
        for stream in (False, True):
            with pytest.raises(OverloadedError, match="Model is overloaded"):
                list(InferenceClient(url, timeout=PATIENCE_S).text_generation("fox", max_new_tokens=3, stream=stream))
        answer = httpx.post(f"{url}/generate", json={"inputs": "fox"}, timeout=PATIENCE_S)
        assert answer.status_code == 429 and answer.json()["error_type"] == "overloaded"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_fails_is_a_failed_generation(tool_engine: Path) -> None:
    """One without end tokens, so that the answer is long enough."""
    executor = FailingExecutor(read_engine_directory(tool_engine).manifest, num_blocks=5000)
    with running_shim(tool_engine, EmbeddedBackend(EngineThread(EngineCore(executor)))) as url:
        with pytest.raises(GenerationError, match=CAUSE):
            InferenceClient(url, timeout=PATIENCE_S).text_generation("fox", max_new_tokens=1000)
        answer = httpx.post(f"{url}/", json={"inputs": "fox"}, timeout=PATIENCE_S)
        assert answer.status_code == 424 and answer.json()["error_type"] == "generation"
        assert CAUSE in answer.json()["error"]
