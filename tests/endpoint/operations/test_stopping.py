"""A server that is asked to stop: running requests go on for a while, new ones are sent elsewhere."""

from __future__ import annotations

import http.client
import json
import re
import signal
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import openai
import pytest

from inflight.triton_backend.launch.installation import TritonInstallation
from tests.endpoint.operations.served import ENDLESS, MODEL, Clients, Served, gone, message_of, serving
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint


def _short_stream(served: Served) -> str:
    """The finish reason of a stream that has begun before the server is asked to stop, and ends soon after."""
    with served.client() as client:
        body = {"model": MODEL, "prompt": "fox", "max_tokens": 200, "extra_body": {"ignore_eos": True}}
        chunks = iter(client.completions.create(**body, stream=True))
        received = [next(chunks)]  # all of it, when the server was that much faster than this client
        served.process.send_signal(signal.SIGTERM)
        received.extend(chunks)
    return str(received[-1].choices[0].finish_reason)


@pytest.mark.parametrize("flags", [[], ["--embedded"]], ids=["triton", "embedded"])
def test_running_requests_end_by_themselves_or_with_an_error(
    flags: list[str], installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    with serving(engine, tmp_path, "--drain-seconds", "5", *flags) as served, ThreadPoolExecutor() as pool:
        parts = served.parts()
        clients = Clients(served, triton=False)
        short = pool.submit(_short_stream, served)
        assert eventually(lambda: served.health()[0] == 503)
        assert "stopping" in served.health()[1]
        with pytest.raises(openai.InternalServerError, match="stopping") as refused:
            served.ask()
        assert refused.value.status_code == 503 and int(refused.value.response.headers["Retry-After"]) > 0
        assert short.result() == "length"
        stream, whole = clients.end("stream"), clients.end("whole")
        assert isinstance(stream, openai.APIError) and "stopping" in message_of(stream), repr(stream)
        assert isinstance(whole, openai.InternalServerError) and "stopping" in message_of(whole), repr(whole)
        clients.leave()
        assert served.process.wait(PATIENCE_S) == 0
        assert "Stopped." in served.said() and "Traceback" not in served.said()
        assert eventually(lambda: gone(parts))


def test_a_second_signal_ends_everything_at_once(engine: Path, tmp_path: Path) -> None:
    with serving(engine, tmp_path, "--embedded", "--drain-seconds", str(2 * PATIENCE_S)) as served:
        parts = served.parts()
        clients = Clients(served, triton=False)
        served.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: served.health()[0] == 503)
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(PATIENCE_S) == 128 + signal.SIGINT
        assert clients.end("stream") is not None and clients.end("whole") is not None
        clients.leave()
        assert "Traceback" not in served.said()
        assert gone(parts)


def test_nobody_waits_for_requests_whose_clients_have_left(
    installation: TritonInstallation, engine: Path, tmp_path: Path
) -> None:
    """Triton 2.51 does not tell its models that the HTTP client of a unary call has gone, nor through an ensemble."""
    models = ("tensorrt_llm_unary", "tensorrt_llm_bls_unary", "ensemble_unary", "ensemble")
    with serving(engine, tmp_path, "--drain-seconds", str(2 * PATIENCE_S)) as served:
        server = f"http://127.0.0.1:{served.address.metrics_port}/metrics"

        def running() -> int:
            with urllib.request.urlopen(server, timeout=PATIENCE_S) as page:
                found = re.search(r'nv_trt_llm_request_metrics{.*request_type="active".*} (\d+)', page.read().decode())
            return int(found[1]) if found else 0

        with ExitStack() as connections:
            for model in models:
                connection = http.client.HTTPConnection("127.0.0.1", served.address.http_port, timeout=PATIENCE_S)
                connections.callback(connection.close)
                body = {"text_input": "fox", "max_tokens": ENDLESS, "end_id": -1}
                if model == "tensorrt_llm_unary":
                    body = {"input_ids": [5, 6, 7], "request_output_len": ENDLESS, "end_id": -1}
                connection.request("POST", f"/v2/models/{model}/generate", json.dumps(body))
            assert eventually(lambda: running() == len(models))
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE_S) == 0
        assert "Traceback" not in served.said()
