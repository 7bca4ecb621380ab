"""The OpenAI-compatible API through the real `openai` package, over Triton and over the engine in one process."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest

from tests.endpoint.conftest import MODEL
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

LONG = 60_000
GO_ON: dict[str, Any] = {"extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(shim: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def messages(rng: np.random.Generator) -> Any:
    words = rng.choice(["naïve", "fox", "東京", "🎉", "dog"], size=int(rng.integers(1, 9)))
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " ".join(words)}]


def metric(shim: str, name: str) -> float:
    page = urllib.request.urlopen(f"{shim}/metrics", timeout=PATIENCE_S).read().decode()
    return float(next(line for line in page.splitlines() if line.startswith(f"{name} ")).split()[1])


def test_a_streamed_chat_joined_is_the_whole_answer_with_the_same_usage(client: openai.OpenAI, messages: Any) -> None:
    request = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 60,
        "seed": 5,
        "n": 2,
        "extra_body": {"ignore_eos": True},
    }
    client.chat.completions.create(**request)  # From here on the prefix cache holds the prompt.
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    for index, choice in enumerate(whole.choices):
        parts = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert [part.finish_reason for part in parts if part.finish_reason] == ["length"]
        assert parts[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 120


def test_both_backends_give_the_same_tokens_and_log_probabilities(
    embedded_shim: str, triton_shim: str, messages: Any, rng: np.random.Generator
) -> None:
    requests: list[dict[str, Any]] = [
        {"temperature": 0},
        {"seed": int(rng.integers(2**60)), "n": 2, "logprobs": True, "top_logprobs": 3},
        {"seed": 1, "top_p": 0.9, "extra_body": {"top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1}},
        {"seed": 2, "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"40": -100}},
        {"seed": 3, "extra_body": {"stop_token_ids": [int(t) for t in rng.integers(6, 300, size=60)], "min_tokens": 4}},
    ]
    answers = []
    for url in (embedded_shim, triton_shim):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
            found = [made.chat.completions.create(model=MODEL, messages=messages, max_tokens=40, **r) for r in requests]
            # What the prefix caches hold differs.
            own = {"id": True, "created": True, "usage": {"prompt_tokens_details": True}}
            answers.append([answer.model_dump(exclude=own) for answer in found])
    assert answers[0] == answers[1]


def test_text_ends_before_a_stop_string_in_a_stream_too(client: openai.OpenAI, messages: Any) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 80,
        "seed": 9,
        "extra_body": {"ignore_eos": True},
    }
    text = client.chat.completions.create(**request).choices[0].message.content or ""
    stop = text[20:24]
    expected = text[: text.find(stop)]
    answer = client.chat.completions.create(**request, stop=[stop, "never to be seen"]).choices[0]
    assert (answer.message.content, answer.finish_reason) == (expected, "stop")
    chunks = list(client.chat.completions.create(**request, stop=stop, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_models_end_token_ends_the_answer_without_text_of_its_own(client: openai.OpenAI, messages: Any) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=messages, seed=4)
    assert answer.choices[0].finish_reason == "stop"


def test_completions_take_text_ids_and_lists_of_them(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 5, "seed": 8, "n": 2, **GO_ON}
    both = client.completions.create(prompt=["fox", "dog"], **request)
    alone = [
        choice.text for text in ("fox", "dog") for choice in client.completions.create(prompt=text, **request).choices
    ]
    assert [choice.text for choice in both.choices] == alone
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    ids = client.completions.create(prompt=[[10, 11, 12], [13]], **request)
    assert len(ids.choices) == 4
    streamed: dict[int, str] = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(prompt=["fox", "dog"], stream=True, **request):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert list(streamed.values()) == alone


def test_an_echo_has_the_prompt_and_its_log_probabilities(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": "a lazy fox", "max_tokens": 4, "seed": 3, "logprobs": 2}
    request |= GO_ON
    plain = client.completions.create(**request).choices[0]
    echoed = client.completions.create(**request, echo=True).choices[0]
    assert echoed.text == "a lazy fox" + plain.text
    assert plain.logprobs is not None and echoed.logprobs is not None
    found, expected = echoed.logprobs, plain.logprobs
    assert found.token_logprobs is not None and expected.token_logprobs is not None
    assert found.token_logprobs[0] is None
    assert found.token_logprobs[-4:] == expected.token_logprobs
    assert all(value is not None for value in found.token_logprobs[1:])
    assert found.tokens is not None and found.text_offset is not None
    assert len(found.tokens) == len(found.text_offset) == len(found.token_logprobs)


def test_best_of_returns_the_most_likely_of_the_sequences(client: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": "fox", "max_tokens": 6, "seed": 11, "logprobs": 0}
    request |= GO_ON
    every = client.completions.create(**request, n=4).choices
    best = client.completions.create(**request, n=2, best_of=4).choices
    sums = {choice.text: sum(choice.logprobs.token_logprobs) for choice in every}
    assert [choice.text for choice in best] == sorted(sums, key=lambda text: -sums[text])[:2]


@pytest.mark.parametrize(
    ("change", "status", "param", "words"),
    [
        ({"max_tokens": 70_000}, 400, "messages", "65536 tokens"),
        ({"extra_body": {"topp": 1}}, 400, "topp", "Unknown parameter"),
        ({"temperature": -1}, 400, "temperature", "must be 0 or more"),
        ({"extra_body": {"functions": [{"name": "f"}]}}, 400, "functions", "does not support"),
        ({"response_format": {"type": "structural_tag"}}, 400, "response_format", "needs triggers"),
        ({"top_logprobs": 3}, 400, "top_logprobs", "logprobs"),
        ({"messages": []}, 400, "messages", "at least 1"),
    ],
)
def test_a_bad_request_is_an_error_in_openais_shape(
    client: openai.OpenAI, messages: Any, change: dict[str, Any], status: int, param: str, words: str
) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**{"model": MODEL, "messages": messages, **change})
    body = refused.value.body
    assert isinstance(body, dict)
    assert (refused.value.status_code, body["param"]) == (status, param)
    assert words in body["message"]
    assert body["type"] == "invalid_request_error"


def test_a_prompt_that_is_too_long_is_a_400_with_both_lengths(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt=[7] * 66_000)
    assert refused.value.code == "context_length_exceeded"
    assert "65536 tokens" in refused.value.message
    assert "66000 tokens" in refused.value.message


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_request(shim: str, stream: bool) -> None:
    host = shim.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    body = {"prompt": "fox", "max_tokens": LONG, "stream": stream, "ignore_eos": True}
    before = metric(shim, "inflight_generation_tokens_total")
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    assert eventually(lambda: metric(shim, "inflight_requests_running") == 1)
    if stream:
        with connection.getresponse() as response:
            assert response.readline().startswith(b"data: ")
    connection.close()
    assert eventually(lambda: metric(shim, "inflight_requests_running") == 0)
    assert metric(shim, "inflight_generation_tokens_total") - before < LONG


def test_the_embedded_engine_frees_the_blocks_of_a_client_that_went_away(embedded_shim: str) -> None:
    connection = http.client.HTTPConnection(embedded_shim.removeprefix("http://"), timeout=PATIENCE_S)
    body = {"prompt": "fox", "max_tokens": LONG, "stream": True, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    with connection.getresponse() as response:
        response.readline()
        assert eventually(lambda: metric(embedded_shim, "inflight_engine_used_blocks") > 0)
    connection.close()
    assert eventually(lambda: metric(embedded_shim, "inflight_engine_used_blocks") == 0)


def test_many_clients_at_once_each_get_their_own_answer(client: openai.OpenAI) -> None:
    def ask(number: int) -> str:
        answer = client.completions.create(model=MODEL, prompt=f"fox {number}", max_tokens=12, seed=number)
        return str(answer.choices[0].text)

    alone = [ask(number) for number in range(24)]
    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, range(24))) == alone


def test_the_server_tells_about_itself(shim: str, client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(MODEL) == model
    with urllib.request.urlopen(f"{shim}/health", timeout=PATIENCE_S) as health:
        assert health.status == 200
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(f"{shim}/v1/nothing", timeout=PATIENCE_S)
    assert json.loads(missing.value.read())["error"]["type"] == "invalid_request_error"


JSON_HEADER = {"Content-Type": "application/json"}


def post(shim: str, path: str, body: bytes, kind: str = "application/json") -> tuple[int, Any]:
    request = urllib.request.Request(f"{shim}{path}", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize(
    "extreme", [{"top_k": 2**31}, {"top_k": 10**30}, {"seed": 10**30}, {"stop_token_ids": [10**12]}, {"top_p": 1e-300}]
)
def test_no_value_of_one_request_ends_the_engine_for_others(shim: str, extreme: dict[str, Any]) -> None:
    body = {"prompt": "fox", "max_tokens": 4}
    status, answer = post(shim, "/v1/completions", json.dumps(body | extreme).encode())
    assert status in (200, 400) and ("choices" in answer or "error" in answer)
    status, answer = post(shim, "/v1/completions", json.dumps(body).encode())
    assert status == 200 and answer["choices"]


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"fox"', b'{"prompt', b"\xff\xfe"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_a_body_that_is_no_object_is_refused_in_the_shape_of_the_api(
    embedded_shim: str, body: bytes, kind: str
) -> None:
    status, answer = post(embedded_shim, "/v1/completions", body, kind)
    assert status == 400
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert "JSON" in answer["error"]["message"]


def test_a_prompt_of_the_wrong_kind_is_named_as_the_api_names_it(embedded_shim: str) -> None:
    status, answer = post(embedded_shim, "/v1/completions", b'{"prompt": null}')
    assert (status, answer["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("name", ["messages", "self", "add_generation_prompt"])
def test_no_name_of_a_template_variable_is_a_failure_of_the_server(embedded_shim: str, name: str) -> None:
    body = {"messages": [{"role": "user", "content": "fox"}], "max_tokens": 2, "chat_template_kwargs": {name: False}}
    status, answer = post(embedded_shim, "/v1/chat/completions", json.dumps(body).encode())
    assert status == (200 if name == "add_generation_prompt" else 400), answer


def test_a_prompt_of_megabytes_holds_up_nobody(embedded_shim: str) -> None:
    host = embedded_shim.removeprefix("http://")
    long = http.client.HTTPConnection(host, timeout=PATIENCE_S)
    long.request("POST", "/v1/completions", json.dumps({"prompt": ["fox " * 150_000] * 6}), JSON_HEADER)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: long.getresponse().status)
        status, _ = post(embedded_shim, "/v1/completions", b'{"prompt": "fox", "max_tokens": 2}')
        assert status == 200 and not answer.done()
        assert answer.result() == 400
    long.close()
