"""What custom_metrics_verification_tests.py and base_metrics_verification_tests.py of tensorrtllm_backend v0.19 check:
Triton's metrics of the engine are what its log says, and what clients know to be true."""

from __future__ import annotations

import itertools
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone

import numpy as np
import pytest
import tritonclient.http as http

from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.triton_calls import Stream, ids, make_inputs, metric, stream
from tests.endpoint.triton_clients.nvidia_requests import ids_request
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

# The label of each gauge -> its name in the log, as NVIDIA's check has them.
LOGGED = {
    "request_type=context": "Context Requests",
    "request_type=scheduled": "Scheduled Requests",
    "request_type=max": "Max Request Count",
    "request_type=active": "Active Request Count",
    "request_type=waiting": "Waiting Requests",
    "memory_type=pinned": "Runtime Pinned Memory Usage",
    "memory_type=gpu": "Runtime GPU Memory Usage",
    "memory_type=cpu": "Runtime CPU Memory Usage",
    "kv_cache_block_type=tokens_per": "Tokens per KV cache block",
    "kv_cache_block_type=used": "Used KV cache blocks",
    "kv_cache_block_type=free": "Free KV cache blocks",
    "kv_cache_block_type=max": "Max KV cache blocks",
    "kv_cache_block_type=reused": "Reused KV cache blocks",
    "kv_cache_block_type=fraction": "Fraction used KV cache blocks",
    "inflight_batcher_specific_metric=total_context_tokens": "Total Context Tokens",
    "inflight_batcher_specific_metric=micro_batch_id": "MicroBatch ID",
    "inflight_batcher_specific_metric=generation_requests": "Generation Requests",
    "inflight_batcher_specific_metric=paused_requests": "Paused Requests",
    "general_type=iteration_counter": "Iteration Counter",
    "general_type=timestamp": "Timestamp",
}
BUCKETS = (10, 50, 100, 500, 1000, float("inf"))
LONG = 60_000


def page(server: TritonServer) -> str:
    url = f"http://127.0.0.1:{server.address.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def gauges(server: TritonServer) -> dict[str, str]:
    """Label -> value of every metric of the engine that is no histogram."""
    found = {}
    for line in page(server).splitlines():
        if line.startswith("nv_trt_llm"):
            labels, value = re.sub(r"^.*?{", "", line).split("} ")
            (label,) = [
                each for each in labels.replace('"', "").split(",") if not each.startswith(("model=", "version="))
            ]
            found[label] = value
    return found


def last_logged(server: TritonServer) -> dict[str, float | str]:
    """The last statistics that the engine wrote to the log."""
    lines = server.log.read_text(errors="replace").splitlines()
    for line in reversed(lines):
        if "Active Request Count" in line and (match := re.search(r"({.*})", line)):
            found: dict[str, float | str] = json.loads(match[1].replace('\\"', '"'))
            return found
    return {}


@contextmanager
def verbose_log(server: TritonServer) -> Iterator[None]:
    def set_level(level: int) -> None:
        body = json.dumps({"log_verbose_level": level}).encode()
        urllib.request.urlopen(f"{server.address.http_url}/v2/logging", body, timeout=PATIENCE_S).close()

    set_level(1)
    try:
        yield
    finally:
        set_level(0)


def microseconds(logged: str) -> int:
    moment = datetime.strptime(logged, "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1_000_000)


def at_rest(server: TritonServer) -> bool:
    return all(
        metric(server, family, **{label: kind}) == 0
        for family, label, kind in (
            ("nv_trt_llm_request_metrics", "request_type", "active"),
            ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "used"),
        )
    )


@pytest.mark.parametrize("streaming", [True, False])
def test_the_metrics_are_those_of_the_log(
    request: pytest.FixtureRequest, streaming: bool, rng: np.random.Generator
) -> None:
    server: TritonServer = request.getfixturevalue("triton" if streaming else "plain_triton")
    with verbose_log(server):
        assert eventually(lambda: gauges(server).keys() == LOGGED.keys()), "Triton has no gauges of a model at first"
        before = float(gauges(server)["general_type=iteration_counter"])
        for _ in range(3):
            stream(server, "tensorrt_llm", ids_request(rng.integers(6, 200, size=50).tolist(), 20, streaming=streaming))
        assert eventually(lambda: at_rest(server))
        begun = time.time_ns() // 1000
        assert eventually(lambda: "Timestamp" in last_logged(server) and logged_at(server) > begun)
        shown, logged = gauges(server), last_logged(server)
    assert shown.keys() == LOGGED.keys()
    assert {LOGGED[label] for label in shown} == logged.keys()
    for label, value in shown.items():
        if label != "general_type=timestamp":
            assert int(value) == logged[LOGGED[label]], label
    # Both are of the last look at the engine, which may have been a newer one for the second that was read.
    assert begun - 1_000_000 < int(shown["general_type=timestamp"]) <= time.time_ns() / 1000
    assert int(shown["general_type=iteration_counter"]) - before >= 3 * 20
    assert int(shown["memory_type=cpu"]) > 0 == int(shown["memory_type=gpu"])


def logged_at(server: TritonServer) -> int:
    return microseconds(str(last_logged(server)["Timestamp"]))


def test_the_gauges_follow_the_requests_that_run_and_wait(triton: TritonServer, rng: np.random.Generator) -> None:
    def shown(**label: str) -> float:
        ((name, kind),) = label.items()
        return float(gauges(triton)[f"{name}={kind}"])

    assert eventually(lambda: at_rest(triton))
    batch, waiting = int(shown(request_type="max")), int(rng.integers(1, 5))
    with ExitStack() as streams:
        for number in range(batch + waiting):
            opened = streams.enter_context(Stream(triton))
            opened.send("tensorrt_llm", ids([5, 6, 7, 8 + number], LONG, end_id=-1, streaming=True))
        wanted = {
            "request_type=active": batch + waiting,
            "request_type=waiting": waiting,
            "request_type=scheduled": batch,
            "request_type=context": 0,
            "inflight_batcher_specific_metric=generation_requests": batch,
            "inflight_batcher_specific_metric=total_context_tokens": 0,
        }
        assert eventually(lambda: {name: float(gauges(triton)[name]) for name in wanted} == wanted), gauges(triton)
        assert eventually(lambda: shown(kv_cache_block_type="used") >= batch)
    assert eventually(lambda: at_rest(triton))
    total, tokens_per = shown(kv_cache_block_type="max"), int(shown(kv_cache_block_type="tokens_per"))
    assert shown(kv_cache_block_type="free") == total and shown(kv_cache_block_type="fraction") == 0

    blocks = int(rng.integers(2, 6))
    prompt = rng.integers(6, 200, size=blocks * tokens_per + 1).tolist()
    stream(triton, "tensorrt_llm", ids(prompt, 2, end_id=-1))
    before = shown(kv_cache_block_type="reused")
    stream(triton, "tensorrt_llm", ids(prompt, 2, end_id=-1))
    assert eventually(lambda: shown(kv_cache_block_type="reused") == before + blocks)


def test_the_histograms_count_the_tokens_of_requests(plain_triton: TritonServer, rng: np.random.Generator) -> None:
    def counts(side: str) -> list[int]:
        labels = f'model="tensorrt_llm",response_metric_type="total_{side}_tokens",version="1"'
        pattern = rf'nv_llm_{side}_token_len_bucket{{{labels},le="([^"]+)"}} (\d+)'
        found = {float(bound): int(count) for bound, count in re.findall(pattern, page(plain_triton))}
        return [found.get(bound, 0) for bound in BUCKETS]

    before = {side: counts(side) for side in ("input", "output")}
    lengths = {side: rng.choice([1, 10, 11, 50, 100, 499, 1000, 1200], size=9).tolist() for side in before}
    with http.InferenceServerClient(plain_triton.address.http_url.removeprefix("http://")) as client:
        for prompt, tokens in zip(lengths["input"], lengths["output"], strict=True):
            request = ids(rng.integers(6, 200, size=prompt).tolist(), tokens, end_id=-1)
            client.infer("tensorrt_llm", make_inputs(http, request))
    for side, old in before.items():
        new = [sum(length <= bound for length in lengths[side]) for bound in BUCKETS]
        assert eventually(lambda: counts(side) == [a + b for a, b in zip(old, new, strict=True)]), side  # noqa: B023


def test_a_request_through_the_ensemble_counts_once_in_each_model(plain_triton: TritonServer) -> None:
    models = ("ensemble", "preprocessing", "postprocessing", "tensorrt_llm")
    names = [f"nv_inference_{name}" for name in ("request_success", "request_failure", "count")]

    def counted() -> dict[tuple[str, str], float]:
        return {(model, name): metric(plain_triton, name, model=f"{model}") for model in models for name in names}

    before = counted()
    with http.InferenceServerClient(plain_triton.address.http_url.removeprefix("http://")) as client:
        for number in range(5):
            words = np.array([[""]], dtype=object)
            values = {"text_input": f"fox {number}", "max_tokens": 9, "bad_words": words, "stop_words": words}
            client.infer("ensemble", make_inputs(http, values))
    more = {"nv_inference_request_success": 5, "nv_inference_request_failure": 0, "nv_inference_count": 5}
    wanted = {key: before[key] + more[key[1]] for key in itertools.product(models, names)}
    assert eventually(lambda: counted() == wanted), (wanted, counted())
