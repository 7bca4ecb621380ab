"""Text through `ensemble` and `tensorrt_llm_bls` on a real Triton server."""

from __future__ import annotations

import http.client
import itertools
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from inflight.runtime.text.tokenizer import load_tokenizer
from inflight.triton_backend.launch.installation import TritonInstallation
from inflight.triton_backend.launch.server import TritonServer
from tests.endpoint.conftest import running_triton
from tests.endpoint.triton_calls import Stream, ids, metric, stream, texts, used_blocks
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

MODELS = ("ensemble", "tensorrt_llm_bls")
LONG = 60_000


@pytest.fixture
def prompt(rng: np.random.Generator) -> str:
    words = ["naïve", "café", "fox", "東京", "Привет", "🎉", "lazy", "dog"]
    return " ".join(rng.choice(words, size=int(rng.integers(1, 12))))


def post(server: TritonServer, model: str, verb: str, body: dict[str, Any]) -> bytes:
    url = f"{server.address.http_url}/v2/models/{model}/{verb}"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=PATIENCE_S) as answer:
        return bytes(answer.read())


def events(page: bytes) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in page.decode().splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_joined_is_the_whole_text(triton: TritonServer, model: str, prompt: str) -> None:
    # Long, so that a busy sender does not take in all of it at once.
    request = {"text_input": prompt, "max_tokens": 2_000, "end_id": -1}
    (whole,) = texts(stream(triton, model, {**request, "exclude_input_in_output": True}))
    chunks = texts(stream(triton, model, {**request, "stream": True}))
    assert len(chunks) > 1
    assert "".join(chunks) == whole


def test_both_models_give_the_text_of_the_engines_tokens(triton: TritonServer, engine: Path, prompt: str) -> None:
    tokenizer = load_tokenizer(engine / "tokenizer")
    prompt_ids = tokenizer.encode(prompt)
    (raw,) = stream(triton, "tensorrt_llm", ids(prompt_ids, 30, end_id=-1))
    expected = tokenizer.decode([int(token) for token in raw["output_ids"].reshape(-1)])
    for model in MODELS:
        assert texts(stream(triton, model, {"text_input": prompt, "max_tokens": 30, "end_id": -1})) == [expected]


def test_text_ends_before_a_stop_word_through_bls_and_with_it_through_ensemble(
    triton: TritonServer, prompt: str
) -> None:
    request = {"text_input": prompt, "max_tokens": 60, "end_id": -1, "exclude_input_in_output": True}
    (whole,) = texts(stream(triton, "tensorrt_llm_bls", request))
    word = whole[11:14]
    stopped = {**request, "stop_words": [word], "return_finish_reason": True}
    for streaming in (False, True):
        responses = stream(triton, "tensorrt_llm_bls", {**stopped, "stream": streaming})
        assert "".join(texts(responses)) == whole[: whole.find(word)]
        assert responses[-1]["finish_reason"].tolist() == [[b"stop"]]


def test_log_probabilities_and_counts_of_a_stream_end_as_those_of_the_whole(triton: TritonServer, prompt: str) -> None:
    request = {"text_input": prompt, "max_tokens": 25, "end_id": -1}
    request |= dict.fromkeys(("return_log_probs", "return_num_input_tokens", "return_num_output_tokens"), True)
    found = []
    for model in MODELS:
        for streaming in (False, True):
            responses = stream(triton, model, {**request, "stream": streaming})
            log_probs = responses[-1]["output_log_probs"]
            assert sum(int(response["num_output_tokens"][0, 0]) for response in responses) == 25
            found.append(log_probs.tolist())
    assert all(each == found[0] for each in found)


def test_a_batch_of_texts_is_answered_with_batch_indices(triton: TritonServer) -> None:
    prompts = ["fox", "a lazy dog", "naïve"]
    batch = {"text_input": np.array([[p.encode()] for p in prompts], dtype=object)}
    batch |= {"max_tokens": np.full((3, 1), 9, np.int32), "end_id": np.full((3, 1), -1, np.int32)}
    expected = {
        i: texts(stream(triton, "ensemble", {"text_input": p, "max_tokens": 9, "end_id": -1}))
        for i, p in enumerate(prompts)
    }
    for model in MODELS:
        responses = stream(triton, model, batch)
        assert {int(r["batch_index"][0, 0]): texts([r]) for r in responses} == expected


@pytest.mark.parametrize("model", MODELS)
def test_generate_takes_the_documents_body_with_empty_word_lists(triton: TritonServer, model: str, prompt: str) -> None:
    body = {"text_input": prompt, "max_tokens": 12, "bad_words": "", "stop_words": "", "end_id": -1}
    whole = json.loads(post(triton, model, "generate", {**body, "exclude_input_in_output": True}))
    streamed = events(post(triton, model, "generate_stream", {**body, "stream": True}))
    assert whole["model_name"] == model
    assert "".join(event["text_output"] for event in streamed) == whole["text_output"]


@pytest.mark.parametrize("model", MODELS)
def test_a_refused_input_is_an_http_error_that_names_it(triton: TritonServer, model: str, prompt: str) -> None:
    body = {"text_input": prompt, "max_tokens": 4, "length_penalty": 3.0}
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(triton, model, "generate", body)
    assert "length_penalty is 3.0" in json.loads(refused.value.read())["error"]


def test_two_names_of_one_setting_may_not_differ(triton: TritonServer, prompt: str) -> None:
    with pytest.raises(InferenceServerException, match="min_length and min_tokens"):
        stream(triton, "ensemble", {"text_input": prompt, "max_tokens": 9, "min_length": 2, "min_tokens": 3})


def test_a_client_of_bls_that_goes_away_frees_its_blocks(triton: TritonServer, prompt: str) -> None:
    generated = metric(triton, "nv_llm_output_token_len_sum")
    with Stream(triton) as opened:
        opened.send("tensorrt_llm_bls", {"text_input": prompt, "max_tokens": LONG, "end_id": -1, "stream": True})
        opened.receive()
        assert eventually(lambda: used_blocks(triton) > 0)
    assert eventually(lambda: used_blocks(triton) == 0)
    assert metric(triton, "nv_llm_output_token_len_sum") - generated < LONG


def test_a_closed_http_stream_frees_its_blocks(triton: TritonServer, prompt: str) -> None:
    generated = metric(triton, "nv_llm_output_token_len_sum")
    connection = http.client.HTTPConnection("127.0.0.1", triton.address.http_port, timeout=PATIENCE_S)
    body = {"text_input": prompt, "max_tokens": LONG, "end_id": -1, "stream": True}
    connection.request("POST", "/v2/models/tensorrt_llm_bls/generate_stream", json.dumps(body))
    with connection.getresponse() as response:
        assert response.readline().startswith(b"data: ")
        assert eventually(lambda: used_blocks(triton) > 0)
    connection.close()
    assert eventually(lambda: used_blocks(triton) == 0)
    assert metric(triton, "nv_llm_output_token_len_sum") - generated < LONG


def test_many_clients_at_once_each_get_their_own_answer(triton: TritonServer, rng: np.random.Generator) -> None:
    prompts = ["".join(chr(97 + int(c)) for c in rng.integers(0, 26, size=6)) for _ in range(24)]

    def ask(text: str) -> str:
        request = {"text_input": text, "max_tokens": 20, "end_id": -1, "stream": True}
        return "".join(texts(stream(triton, "tensorrt_llm_bls", request)))

    alone = [ask(text) for text in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        assert list(pool.map(ask, prompts)) == alone


def test_text_works_without_decoupling_and_streaming_is_then_refused(plain_triton: TritonServer, prompt: str) -> None:
    body = {"text_input": prompt, "max_tokens": 9, "end_id": -1}
    answers = {json.loads(post(plain_triton, model, "generate", body))["text_output"] for model in MODELS}
    assert len(answers) == 1
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(plain_triton, "tensorrt_llm_bls", "generate", {**body, "stream": True})
    assert "decoupled" in json.loads(refused.value.read())["error"]


def test_with_accumulate_tokens_every_chunk_has_all_the_text_so_far_special_tokens_too_unless_they_are_skipped(
    installation: TritonInstallation, engine: Path, tmp_path: Path, seed: int
) -> None:
    # Among so many tokens of a vocabulary of 400 some are special.
    request = {"text_input": f"fox {seed}", "max_tokens": 3_000, "end_id": -1}
    whole = {**request, "exclude_input_in_output": True}
    with running_triton(
        installation, engine, tmp_path, {"accumulate_tokens": "true", "skip_special_tokens": "false"}
    ) as server:
        chunks = texts(stream(server, "tensorrt_llm_bls", {**request, "stream": True}))
        spelled = [texts(stream(server, model, whole)) for model in MODELS]
        with_prompt = [texts(stream(server, model, request)) for model in MODELS]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(chunks))
    assert [chunks[-1:]] * 2 == spelled
    assert "</s>" in chunks[-1]
    assert with_prompt[0] == with_prompt[1]
    assert not server.is_running()
