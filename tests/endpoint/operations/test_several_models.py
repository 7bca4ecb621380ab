"""`inflight serve A=... B=...`: models behind one port, by name, loaded and unloaded under load, in both modes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
import tritonclient.http

from inflight.triton_backend.launch.installation import find_triton
from inflight.triton_backend.launch.server import ServerAddress
from tests.endpoint.conftest import free_ports
from tests.endpoint.operations.served import Served, watching_health
from tests.engines.pooling_engines import write_pooling_engine
from tests.engines.serving_engines import write_null_engine
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two that generate, of which one has long sequences, one that embeds, and one that is not loaded at first."""
    root = tmp_path_factory.mktemp("several")
    long = write_null_engine(root / "long", max_seq_len=1 << 14)
    short, later = (write_null_engine(root / name, max_seq_len=256) for name in ("short", "later"))
    return [f"long={long}", f"short={short}", f"embeds={write_pooling_engine(root, 'embed')}", f"later={later}"]


@pytest.fixture(scope="module", params=["embedded", "triton"])
def served(
    request: pytest.FixtureRequest, engines: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    if request.param == "triton" and isinstance(found := find_triton(), str):
        pytest.skip(found)
    port, http, grpc, metrics = free_ports(4)
    ports = {"--port": port, "--http-port": http, "--grpc-port": grpc, "--metrics-port": metrics}
    command = [str(Path(sys.executable).with_name("inflight")), "serve", *engines, "--threads", "1"]
    command += [word for name in ("long", "short", "embeds") for word in ("--load-model", name)]
    command += [word for flag, number in ports.items() for word in (flag, str(number))]
    command += ["--embedded"] if request.param == "embedded" else []
    log = tmp_path_factory.mktemp("log") / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(os.environ), stderr=output)
    address = ServerAddress(http_port=http, grpc_port=grpc, metrics_port=metrics)
    server = Served(process, port, address, log)
    try:
        assert eventually(lambda: process.poll() is not None or server.is_healthy())
        assert process.poll() is None and (request.param == "embedded") == ("without Triton" in server.said())
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def post(served: Served, path: str, **body: Any) -> Any:
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{served.url}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def test_every_dialect_chooses_by_name(served: Served) -> None:
    with served.client() as client:
        assert [model.id for model in client.models.list()] == ["long", "short", "embeds"]
        assert client.models.retrieve("short").model_dump()["max_model_len"] == 256
        answer = client.completions.create(model="short", prompt="fox", max_tokens=3, extra_body={"ignore_eos": True})
        assert (answer.model, answer.usage and answer.usage.completion_tokens) == ("short", 3)
        assert client.embeddings.create(model="embeds", input="a fox").data[0].embedding
        with pytest.raises(openai.NotFoundError, match=r"no-such.*long, short, embeds, later"):
            client.completions.create(model="no-such", prompt="fox")
        with pytest.raises(openai.NotFoundError, match="'later' is not loaded"):
            client.completions.create(model="later", prompt="fox")
        with pytest.raises(openai.BadRequestError, match="embed"):
            client.completions.create(model="embeds", prompt="fox")
        stored = client.responses.create(model="short", input="fox", max_output_tokens=16)
        assert client.responses.retrieve(stored.id).model == "short"
    message = anthropic.Anthropic(base_url=served.url, api_key="none").messages.create(
        model="long", max_tokens=3, messages=[{"role": "user", "content": "fox"}]
    )
    assert message.model == "long"
    desktop = ollama.Client(served.url)
    assert [model.model for model in desktop.list().models] == ["long", "short", "embeds"]
    assert desktop.generate("short:latest", "fox", options={"num_predict": 3}).eval_count
    with pytest.raises(ollama.ResponseError, match="no-such"):
        desktop.show("no-such")
    asked = {"inputs": "fox", "parameters": {"max_new_tokens": 3}}
    assert "generated_text" in post(served, "/models/short/generate", **asked)
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(served, "/generate", **asked)
    with refused.value:
        assert (refused.value.code, "Which model" in refused.value.read().decode()) == (422, True)
    metrics = urllib.request.urlopen(f"{served.url}/metrics").read().decode()
    assert 'inflight_generation_tokens_total{model="short"}' in metrics
    assert metrics.count("# TYPE inflight_generation_tokens_total counter") == 1


def test_one_goes_and_another_comes_under_load_without_a_lost_request(served: Served) -> None:
    over, failures = threading.Event(), []
    begun = threading.Barrier(4)
    lengths: dict[str, list[int]] = {"long": [], "short": []}

    def ask_again_and_again(model: str) -> None:
        with served.client() as client:
            while True:
                try:
                    answer = client.completions.create(
                        model=model, prompt="fox", max_tokens=200, extra_body={"ignore_eos": True}
                    )
                except openai.NotFoundError as error:
                    if model != "short" or "not loaded" not in str(error):
                        failures.append(repr(error))
                    return
                except Exception as error:
                    failures.append(repr(error))
                    return
                lengths[model].append(answer.usage.completion_tokens if answer.usage else 0)
                if len(lengths[model]) == 1:
                    begun.wait(PATIENCE_S)
                if over.is_set():
                    return

    clients = [threading.Thread(target=ask_again_and_again, args=(model,)) for model in ("long", "short")]
    clients.append(threading.Thread(target=lambda: read_stream(served, begun, failures)))
    for client in clients:
        client.start()
    begun.wait(PATIENCE_S)
    control = ollama.Client(served.url)
    assert control.generate("short", keep_alive=0).done_reason == "unload"
    before = len(lengths["long"])
    triton = tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.port}")
    triton.load_model("later")
    assert {each["name"]: each["state"] for each in triton.get_model_repository_index()} == {
        "long": "READY",
        "short": "UNAVAILABLE",
        "embeds": "READY",
        "later": "READY",
    }
    with served.client() as client:
        assert client.completions.create(model="later", prompt="fox", max_tokens=3).model == "later"
    assert eventually(lambda: len(lengths["long"]) > before + 1)
    over.set()
    for each in clients:
        each.join(PATIENCE_S)
    assert not failures
    assert set(lengths["long"] + lengths["short"]) == {200}
    post(served, "/v1/models/later/unload")
    post(served, "/models/load", model="short")
    post(served, "/v1/models/short/load")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        post(served, "/v1/models/no-such/load")
    # Two looks at the processes: those in whose place others have come are no dead ones.
    time.sleep(1.5)
    assert "starts again" not in served.said().rpartition("is ready")[2], served.said()
    assert served.is_healthy()
    with served.client() as client:
        assert client.completions.create(model="short", prompt="fox", max_tokens=3).model == "short"


def read_stream(served: Served, begun: threading.Barrier, failures: list[str]) -> None:
    """One request of the model that goes, which is in the middle of its answer then."""
    tokens = 0
    try:
        with served.client() as client:
            extra = {"ignore_eos": True, "return_token_ids": True}
            for chunk in client.completions.create(
                model="short", prompt="fox", max_tokens=250, stream=True, extra_body=extra
            ):
                if not tokens:
                    begun.wait(PATIENCE_S)
                tokens += len(chunk.choices[0].model_dump().get("token_ids") or ()) if chunk.choices else 0
    except Exception as error:
        failures.append(repr(error))
    if tokens != 250:
        failures.append(f"the stream had {tokens} tokens")


def test_one_that_dies_takes_the_others_along_and_what_was_loaded_comes_back(served: Served) -> None:
    """As the page says: one process of all engines, or one Triton. The last test of this server."""
    # Where cores are scarce, Triton may have crashed while it loaded; since it was ready it has not.
    assert "starts again" not in served.said().rpartition("is ready")[2], served.said()
    parts = served.parts()
    victim = parts["long.tensorrt_llm" if "tritonserver" in parts else "api"]
    begun = threading.Barrier(3)
    ends: dict[str, str] = {}

    def read(model: str) -> None:
        waits = True
        try:
            with served.client() as client:
                extra = {"ignore_eos": True}
                while True:
                    for _ in client.completions.create(
                        model=model, prompt="fox", max_tokens=250, stream=True, extra_body=extra
                    ):
                        if waits:
                            begun.wait(PATIENCE_S)
                            waits = False
        except Exception as error:
            ends[model] = repr(error)
            if waits:
                begun.abort()

    clients = [threading.Thread(target=read, args=(model,)) for model in ("long", "short")]
    for client in clients:
        client.start()
    with suppress(threading.BrokenBarrierError):
        begun.wait(PATIENCE_S)
    assert not ends, (ends, served.said())
    with watching_health(served) as statuses:
        os.kill(victim, signal.SIGKILL)
        for client in clients:
            client.join(PATIENCE_S)
        assert set(ends) == {"long", "short"}, "both were told"
        assert eventually(lambda: any(status != 200 for status in statuses))
        assert eventually(served.is_healthy)
    assert f"pid {victim}, was killed by SIGKILL" in served.said(), served.said()
    with served.client() as client:
        assert [model.id for model in client.models.list()] == ["long", "short", "embeds"]
        for model in ("long", "short"):
            assert client.completions.create(model=model, prompt="fox", max_tokens=3).model == model
        assert client.embeddings.create(model="embeds", input="a fox").data
        with pytest.raises(openai.NotFoundError, match="'later' is not loaded"):
            client.completions.create(model="later", prompt="fox")
