"""What inflight_batcher_llm_client.py and benchmark_core_model.py send, and what they check."""

from __future__ import annotations

import queue
import time
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from inflight.triton_backend.launch.server import TritonServer
from inflight.triton_backend.launch.unary_models import UNARY_MODELS
from tests.endpoint.triton_calls import Stream, make_inputs, metric, stream, used_blocks
from tests.endpoint.triton_clients.nvidia_requests import PERF_OUTPUTS, core_request, ids_request
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

LONG = 60_000
# top_k 1 is sampling, whose seed is drawn.
SEED = np.array([[7]], np.uint64)


@pytest.fixture(params=["unary", "plain"])
def unary(request: pytest.FixtureRequest) -> tuple[TritonServer, str]:
    """A model that answers once: beside the decoupled one, and alone."""
    if request.param == "unary":
        return request.getfixturevalue("triton"), "tensorrt_llm_unary"
    return request.getfixturevalue("plain_triton"), "tensorrt_llm"


@pytest.fixture
def prompt(rng: np.random.Generator) -> list[int]:
    return [int(token) for token in rng.integers(6, 200, size=int(rng.integers(1, 40)))]


def infer(server: TritonServer, model: str, values: dict[str, Any], **options: Any) -> dict[str, Any]:
    with grpc.InferenceServerClient(server.address.grpc_url) as client:
        result = client.infer(model, make_inputs(grpc, values), client_timeout=PATIENCE_S, **options)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def generated(response: dict[str, Any], prompt: list[int]) -> list[int]:
    """The way of the client: the ids of beam 0 up to sequence_length, after the prompt."""
    ids: list[int] = response["output_ids"][0][0][: int(response["sequence_length"][0][0])].tolist()
    return ids[len(prompt) :] if ids[: len(prompt)] == prompt else ids


def test_a_stream_and_a_unary_call_of_one_repository_give_the_same_tokens(
    triton: TritonServer, unary: tuple[TritonServer, str], prompt: list[int]
) -> None:
    chunks = stream(triton, "tensorrt_llm", ids_request(prompt, 40, streaming=True, random_seed=SEED))
    streamed = [token for chunk in chunks for token in chunk["output_ids"][0][0].tolist()]
    whole = infer(*unary, ids_request(prompt, 40, streaming=False, random_seed=SEED))
    assert generated(whole, prompt) == streamed


def test_the_requested_outputs_are_those_that_come(unary: tuple[TritonServer, str], prompt: list[int]) -> None:
    names = {"output_ids", "sequence_length", "cum_log_probs", "output_log_probs"}
    requested = [grpc.InferRequestedOutput(name) for name in sorted(names)]
    values = ids_request(prompt, 9, streaming=False, return_log_probs=True, return_perf_metrics=True)
    assert infer(*unary, values, outputs=requested).keys() == names


def test_every_response_of_a_stream_has_all_log_probabilities_so_far_and_perf_metrics(
    triton: TritonServer, prompt: list[int]
) -> None:
    asked = {"return_log_probs": True, "return_perf_metrics": True}
    responses = stream(triton, "tensorrt_llm", ids_request(prompt, 2_000, streaming=True, **asked))
    assert len(responses) > 1
    count = 0
    for response in responses:
        count += response["output_ids"].shape[2]
        assert response["output_log_probs"].shape == (1, 1, count)
        assert response["cum_log_probs"][0][0] == pytest.approx(response["output_log_probs"].sum(), rel=1e-4)
        metrics = {name: response[name][0][0] for name in PERF_OUTPUTS}
        times = [metrics[f"{name}_time_ns"] for name in ("arrival", "first_scheduled", "first_token", "last_token")]
        assert times == sorted(times) and times[0] > 0
    ends = [response["last_token_time_ns"][0][0] for response in responses]
    assert ends == sorted(set(ends))


def test_a_repeated_prompt_allocates_what_it_does_not_reuse(
    unary: tuple[TritonServer, str], rng: np.random.Generator
) -> None:
    """As test.sh of NVIDIA expects: at first every block of the prompt is new, then those that are not reused."""
    tokens_per = int(metric(unary[0], "nv_trt_llm_kv_cache_block_metrics", kv_cache_block_type="tokens_per"))
    full = int(rng.integers(1, 4))
    prompt = rng.integers(6, 200, size=full * tokens_per + int(rng.integers(1, tokens_per))).tolist()
    names = ("kv_cache_alloc_new_blocks", "kv_cache_alloc_total_blocks", "kv_cache_reused_blocks")
    found = []
    for _ in range(2):
        values = ids_request(prompt, 3 * tokens_per, streaming=False, return_perf_metrics=True)
        answer = infer(*unary, values)
        found.append(tuple(int(answer[name][0][0]) for name in names))
        assert (answer["acceptance_rate"], answer["total_draft_tokens"]) == (0, 0)
    assert found == [(full + 1, full + 1, 0), (1, 1, full)]


@pytest.mark.parametrize("way", ["stop", "cancel"])
def test_a_unary_request_is_stopped_early(unary: tuple[TritonServer, str], prompt: list[int], way: str) -> None:
    server, model = unary
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    values = ids_request(prompt, LONG, streaming=False)
    with grpc.InferenceServerClient(server.address.grpc_url) as client:

        def send(inputs: dict[str, Any]) -> Any:
            return client.async_infer(
                model, make_inputs(grpc, inputs), lambda result, error: answers.put((result, error)), request_id="mine"
            )

        running = send(values)
        assert eventually(lambda: used_blocks(server) > 0)
        if way == "cancel":
            running.cancel()
            assert "CANCELLED" in str(answers.get(timeout=PATIENCE_S)[1])
        else:
            send({"input_ids": [0], "input_lengths": 0, "request_output_len": 0, "stop": True})
            found = [answers.get(timeout=PATIENCE_S) for _ in range(2)]
            assert all(error is None for _, error in found)
            lengths = [result.as_numpy("sequence_length") for result, _ in found]
            (length,) = [int(each[0][0]) for each in lengths if each is not None]
            assert 0 < length < LONG
        assert eventually(lambda: used_blocks(server) == 0)


def test_input_ids_alone_are_a_request(unary: tuple[TritonServer, str], prompt: list[int]) -> None:
    server, model = unary
    with http.InferenceServerClient(server.address.http_url.removeprefix("http://")) as client:
        result = client.infer(model, make_inputs(http, {"input_ids": prompt}))
    (expected,) = stream(server, model, {"input_ids": prompt, "request_output_len": 4_000})
    assert np.array_equal(result.as_numpy("output_ids"), expected["output_ids"])


def test_a_batch_has_one_answer_with_a_row_for_each(
    triton: TritonServer, unary: tuple[TritonServer, str], rng: np.random.Generator
) -> None:
    prompts = [rng.integers(6, 200, size=size).tolist() for size in (3, 9, 5)]
    counts = [7, 2, 12]
    padded = np.array([p + [0] * (9 - len(p)) for p in prompts], np.int32)
    values: dict[str, Any] = {"input_ids": padded, "input_lengths": np.array([[len(p)] for p in prompts], np.int32)}
    values |= {"request_output_len": np.array([[n] for n in counts], np.int32), "end_id": np.full((3, 1), -1, np.int32)}
    values["return_log_probs"] = np.ones((3, 1), bool)
    answer = infer(*unary, values)
    assert answer["batch_index"].tolist() == [[0], [1], [2]]
    for row, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        request = {"input_ids": prompt, "request_output_len": count, "end_id": -1, "return_log_probs": True}
        (alone,) = stream(triton, "tensorrt_llm", request)
        length = int(answer["sequence_length"][row, 0])
        ids = answer["output_ids"][row, 0]
        assert ids[length - count : length].tolist() == generated(alone, prompt)
        assert set(ids[length:].tolist()) <= {-1}
        assert np.array_equal(answer["output_log_probs"][row, 0, :count], alone["output_log_probs"][0, 0])


def test_unary_requests_run_together(triton: TritonServer, prompt: list[int]) -> None:
    """Each would have the engine for itself if one call were served after the other."""
    for model in UNARY_MODELS:
        # No cancellation comes through an ensemble.
        tokens = 2_000 if model == "ensemble_unary" else LONG
        request: dict[str, Any] = {"text_input": "fox", "max_tokens": tokens}
        if model == "tensorrt_llm_unary":
            request = ids_request(prompt, tokens, streaming=False)
        calls = []
        with grpc.InferenceServerClient(triton.address.grpc_url) as client:
            for _ in range(5):
                inputs = make_inputs(grpc, {**request, "end_id": -1})
                calls.append(client.async_infer(model, inputs, lambda result, error: None))
            together = eventually(lambda: metric(triton, "nv_trt_llm_request_metrics", request_type="scheduled") == 5)
            for call in calls:
                call.cancel()
        assert together, model
        assert eventually(lambda: used_blocks(triton) == 0), model


def test_many_requests_of_the_benchmark_are_answered(
    triton: TritonServer, unary: tuple[TritonServer, str], rng: np.random.Generator
) -> None:
    requests = [
        core_request(rng.integers(6, 200, size=(1, 9)).astype(np.int32), int(rng.integers(2, 9))) for _ in range(20)
    ]
    server, model = unary
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpc.InferenceServerClient(server.address.grpc_url) as client:
        for number, request in enumerate(requests):
            inputs = make_inputs(grpc, request)
            client.async_infer(model, inputs, lambda result, error: done.put((result, error)), request_id=str(number))
        answers = [done.get(timeout=PATIENCE_S) for _ in requests]
    assert sorted(int(result.get_response().id) for result, _ in answers) == list(range(20))
    with Stream(triton) as opened:
        for number, request in enumerate(requests):
            opened.send("tensorrt_llm", request, request_id=str(number))
        assert sum(opened.receive()[1] for _ in requests) == 20


def test_ids_beyond_the_vocabulary_are_refused_with_its_size(
    triton: TritonServer, unary: tuple[TritonServer, str], rng: np.random.Generator
) -> None:
    prompt = rng.integers(1_000_000, 2**31 - 1, size=(1, 20)).astype(np.int32)
    message = rf"token id {prompt[0, 0]}; the vocabulary has \d+, 0 to \d+"
    with pytest.raises(InferenceServerException, match=message):
        stream(triton, "tensorrt_llm", core_request(prompt, 9))
    with pytest.raises(InferenceServerException, match=message):
        infer(*unary, core_request(prompt, 9))


def test_the_metrics_have_their_units(triton: TritonServer) -> None:
    before = time.time_ns() // 1000
    assert eventually(lambda: metric(triton, "nv_trt_llm_general_metrics", general_type="timestamp") >= before)
    assert metric(triton, "nv_trt_llm_general_metrics", general_type="timestamp") <= time.time_ns() / 1000
