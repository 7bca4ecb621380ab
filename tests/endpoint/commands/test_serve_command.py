"""`inflight serve` as a user runs it: from a model directory, with Triton and without."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inflight.accuracy.record import AccuracyRecord, Figure, write_accuracy
from inflight.runtime.loading.accuracy import engine_subject
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.triton_backend.launch.installation import TritonInstallation
from tests.endpoint.conftest import free_ports
from tests.engines.serving_engines import write_null_engine, write_tokenizer
from tests.models.random_models import Shape, save_random_model
from tests.network.support import chosen, some_of
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Hugging Face model with a tokenizer."""
    directory = tmp_path_factory.mktemp("served") / "random-model"
    backend = write_tokenizer(directory)
    shape = Shape(family="qwen2", vocab_size=backend.get_vocab_size(with_added_tokens=True))
    save_random_model(directory, shape, torch.seed() % 2**31)
    return directory


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@contextmanager
def serving(
    model: Path, cache: Path, *flags: str, at: str = "127.0.0.1"
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process once it is healthy, and its URL at an address; killed at the end if it still runs."""
    port, http, grpc, metrics = map(str, free_ports(4))
    ports = ["--port", port, "--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
    command = [str(Path(sys.executable).with_name("inflight")), "serve", str(model), *ports, *flags]
    environment = {**os.environ, "INFLIGHT_CACHE": str(cache)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    url = f"http://{at}:{port}"
    try:
        assert eventually(lambda: process.poll() is not None or healthy(url))
        yield process, url
    finally:
        process.kill()
        process.wait()


def healthy(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/health", timeout=5).status == 200)
    except (urllib.error.URLError, OSError):
        return False


def ask(url: str) -> Any:
    body = {"messages": [{"role": "user", "content": "fox"}], "max_tokens": 24, "seed": 6, "logprobs": True}
    body |= {"top_logprobs": 4, "ignore_eos": True, "model": "random-model"}
    return post(f"{url}/v1/chat/completions", body)["choices"]


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def waiting_rule(url: str) -> tuple[float, int]:
    """As TGI's /info has it."""
    with urllib.request.urlopen(f"{url}/info", timeout=PATIENCE_S) as answer:
        info = json.loads(answer.read())
    return info["waiting_served_ratio"], info["max_waiting_tokens"]


def assert_strict(url: str) -> None:
    """Another model's name is refused, and pages of one origin may call."""
    body = json.dumps({"model": "gpt-9", "prompt": "fox"}).encode()
    headers = {"Content-Type": "application/json", "Origin": "https://page.example"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, headers), timeout=PATIENCE_S)
    assert refused.value.code == 404
    assert refused.value.headers["access-control-allow-origin"] == "https://page.example"


def stop(process: subprocess.Popen[str], number: signal.Signals) -> str:
    process.send_signal(number)
    _, shown = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, shown
    return shown


def test_a_model_directory_is_built_once_and_answers_alike_with_triton_and_without(
    installation: TritonInstallation, model: Path, cache: Path
) -> None:
    with serving(model, cache, "--max-waiting-tokens", "7") as (process, url):
        through_triton = ask(url)
        assert waiting_rule(url) == (0.3, 7)
        shown = stop(process, signal.SIGINT)
    assert "Building an engine" in shown
    assert "KV cache" in shown
    assert "Triton is ready" in shown
    more = ["--strict-model-name", "--cors-origin", "https://page.example"]
    more += ["--waiting-served-ratio", "1.2", "--watermark-gamma", "0.25"]
    with serving(model, cache, "--embedded", "--threads", "1", *more) as (process, url):
        assert ask(url) == through_triton
        assert_strict(url)
        assert waiting_rule(url) == (1.2, 20)
        marked = {"do_sample": True, "seed": 7, "max_new_tokens": 30, "watermark": True}
        own = {"seed": 7, "max_tokens": 30, "watermark_delta": 2.0, "watermark_gamma": 0.25, "top_p": 1.0, "top_k": 0}
        text = post(f"{url}/generate", {"inputs": "fox", "parameters": marked})["generated_text"]
        assert text == post(f"{url}/v1/completions", {"prompt": "fox", "temperature": 1.0, **own})["choices"][0]["text"]
        shown = stop(process, signal.SIGTERM)
    assert "Building an engine" not in shown
    assert "without Triton" in shown


def test_a_closed_terminal_ends_the_server_in_order(model: Path, cache: Path) -> None:
    with serving(model, cache, "--embedded") as (process, _):
        shown = stop(process, signal.SIGHUP)
    assert "Stopped." in shown and "Traceback" not in shown


# A process each takes more than a second: some in each run, here and below.
@pytest.mark.parametrize(
    "case",
    some_of(
        2,
        [
            ("--max-batch-size", "0"),
            ("--cors-origin", "page.example"),
            ("--scheduler-policy", "best"),
            ("--cors-origin", "https://page.example/"),
            ("--tokens-per-block", "7"),
            ("--port", "x"),
        ],
    ),
)
def test_a_flag_out_of_range_is_a_usage_error(model: Path, cache: Path, case: Any, rng: np.random.Generator) -> None:
    flags = chosen(case, rng)
    with serving(model, cache, "--embedded", *flags) as (process, _):
        _, shown = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2 and "Traceback" not in shown
    assert flags[0] in shown


def test_a_port_that_is_taken_is_named_with_its_flag(model: Path, cache: Path) -> None:
    with serving(model, cache, "--embedded") as (_, url):
        taken = url.rpartition(":")[2]
        with serving(model, cache, "--embedded", "--port", taken) as (second, _):
            _, shown = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 1
    assert f"Port {taken}" in shown
    assert "--port" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "case",
    some_of(
        2,
        [
            ("localhost", "127.0.0.1", ()),
            ("::1", "[::1]", ()),
            ("::", "[::1]", ()),
            ("::1", "[::1]", ("--embedded",)),
        ],
    ),
)
def test_a_host_is_a_name_or_an_address_of_either_kind(
    installation: TritonInstallation, tmp_path: Path, case: Any, rng: np.random.Generator
) -> None:
    host, at, flags = chosen(case, rng)
    if ":" in host:
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::1", 0))
            except OSError as error:
                pytest.skip(f"no IPv6 here: {error}")
    engine = write_null_engine(tmp_path / "engine")
    with serving(engine, tmp_path, "--host", host, *flags, at=at) as (process, url):
        assert ask(url)
        shown = stop(process, signal.SIGTERM)
    assert ("Triton is ready" in shown) == (flags == ()), shown


@pytest.mark.parametrize("host", some_of(2, ["300.1.1.1", "a..b", "", "::zz", "192.0.2.1"]))
@pytest.mark.parametrize("flags", [(), ("--embedded",)])
def test_a_host_on_which_nothing_can_listen_is_refused_with_the_reason(
    tmp_path: Path, host: Any, flags: tuple[str, ...], rng: np.random.Generator
) -> None:
    host = chosen(host, rng)
    engine = write_null_engine(tmp_path / "engine")
    with serving(engine, tmp_path, "--host", host, *flags) as (process, _):
        _, shown = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1 and "Traceback" not in shown
    assert host in shown and "--host" in shown and "--port" not in shown


def test_an_engine_without_a_tokenizer_is_refused_before_anything_is_started(cache: Path, tmp_path: Path) -> None:
    engine = write_null_engine(tmp_path / "engine")
    shutil.rmtree(engine / "tokenizer")
    with serving(engine, cache) as (process, _):
        _, shown = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "has no tokenizer files" in shown
    assert "Starting Triton" not in shown and "Traceback" not in shown


def test_clients_are_told_how_accurate_the_engine_is(tmp_path: Path, rng: np.random.Generator) -> None:
    """By the record that lies in it, whichever figures that has."""
    engine = write_null_engine(tmp_path / "engine")
    subject = engine_subject(read_engine_directory(engine).manifest)
    figures = {"kl": Figure.of(float(rng.random()), float(rng.random())), "top1": Figure.of(float(rng.random()))}
    write_accuracy(engine, AccuracyRecord(subject=subject, window=64, figures=figures))
    with serving(engine, tmp_path, "--embedded", "--served-model-name", "tiny") as (_, url):
        for path in ("/v1/models/tiny", "/v1/models"):
            with urllib.request.urlopen(url + path, timeout=PATIENCE_S) as answer:
                model = json.loads(answer.read())
            accuracy = model.get("data", [model])[0]["accuracy"]
            assert accuracy["measured_on"] == "engine" and accuracy["window"] == 64
            assert accuracy["figures"] == {
                name: {"value": figure.value, "error": figure.error} for name, figure in figures.items()
            }
