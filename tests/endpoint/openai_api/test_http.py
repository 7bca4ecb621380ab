"""Names of models, headers, methods and strings that are no text: what HTTP clients meet around the answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.engine.thread import EngineThread
from inflight.runtime.loading.load import load_engine
from inflight.triton_backend.openai.backends.embedded import EmbeddedBackend
from tests.endpoint.conftest import MODEL, running_shim
from tests.endpoint.openai_api.test_openai_api import post
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

ORIGIN = "https://page.example"
MODELS = ("/v1/models", "/v1/models/", f"/v1/models/{MODEL}")
READ = (*MODELS, "/health", "/health/ready", "/ping", "/metrics", "/version", "/tokenizer_info")
WRITE = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
HALF = "\\ud83d"  # As JSON spells it.


def call(shim: str, method: str, path: str, **headers: str) -> tuple[int, Any, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{shim}{path}", method=method, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@pytest.fixture(scope="module")
def strict_shim(engine: Path) -> Iterator[str]:
    """A server that takes its own name alone, and calls from one origin."""
    backend = EmbeddedBackend(EngineThread(EngineCore(load_engine(engine))))
    with running_shim(engine, backend, strict_model_name=True, allowed_origins=[ORIGIN]) as url:
        yield url


def test_one_engine_answers_to_any_name_unless_names_are_strict(shim: str, strict_shim: str) -> None:
    body: dict[str, Any] = {"model": "gpt-9", "prompt": "fox", "max_tokens": 1}
    status, answer = post(shim, "/v1/completions", json.dumps(body).encode())
    assert (status, answer["model"]) == (200, MODEL)
    for path, asked in (
        ("/v1/completions", body),
        ("/v1/chat/completions", {"model": "gpt-9", "messages": [{"role": "user", "content": "fox"}]}),
        ("/tokenize", {"model": "gpt-9", "prompt": "fox"}),
        ("/detokenize", {"model": "gpt-9", "tokens": [40]}),
    ):
        status, answer = post(strict_shim, path, json.dumps(asked).encode())
        assert (status, answer["error"]["param"], answer["error"]["code"]) == (404, "model", "model_not_found")
    for name in (None, MODEL):
        assert post(strict_shim, "/v1/completions", json.dumps({**body, "model": name}).encode())[0] == 200
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        assert client.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-9")


def test_every_response_has_a_request_id_and_a_sane_one_of_the_clients(embedded_shim: str) -> None:
    for method, path in (("GET", "/v1/models"), ("GET", "/nowhere"), ("POST", "/v1/completions"), ("OPTIONS", "/ping")):
        assert call(embedded_shim, method, path, X_Request_Id="mine-1")[1]["x-request-id"] == "mine-1"
        made = {call(embedded_shim, method, path)[1]["x-request-id"] for _ in range(2)}
        assert len(made) == 2 and all(made)
    for other in ("a b", "x" * 200, "\xe9"):
        assert call(embedded_shim, "GET", "/version", X_Request_Id=other)[1]["x-request-id"] not in (other, None)
    with openai.OpenAI(base_url=f"{embedded_shim}/v1", api_key="none", max_retries=0) as client:
        chunks = client.completions.with_raw_response.create(model=MODEL, prompt="fox", max_tokens=1, stream=True)
        assert chunks.headers["x-request-id"]


def test_head_and_options_are_answered(embedded_shim: str) -> None:
    for path in READ:
        assert call(embedded_shim, "GET", path)[0] == 200
        status, headers, content = call(embedded_shim, "HEAD", path)
        assert (status, content) == (200, b"") and headers["content-type"]
        status, headers, content = call(embedded_shim, "OPTIONS", path)
        assert (status, content) == (204, b"") and {"GET", "HEAD", "OPTIONS"} <= set(headers["allow"].split(", "))
    for path in WRITE:
        status, headers, _ = call(embedded_shim, "OPTIONS", path)
        assert (status, headers["allow"]) == (204, "POST, OPTIONS")


def test_an_unknown_path_and_a_wrong_method_are_errors_of_the_api(embedded_shim: str) -> None:
    for method, path, expected, words in (
        ("GET", "/v1/nothing", 404, "This server has no /v1/nothing."),
        ("OPTIONS", "/v1/nothing", 404, "/v1/nothing"),
        ("POST", "/chat/completions", 404, "Did you mean /v1/chat/completions?"),
        ("POST", "/v1/v1/completions", 404, "Did you mean /v1/completions?"),
        ("GET", "/v1/health", 404, "Did you mean /health?"),
        ("GET", "/%ED%A0%BD/" + "a" * 50_000, 404, "aaa..."),
        ("GET", "/v1/completions", 405, "GET is not for /v1/completions, which takes POST"),
        ("DELETE", "/v1/models", 405, "DELETE is not for /v1/models"),
    ):
        status, headers, content = call(embedded_shim, method, path)
        assert status == expected
        error = json.loads(content)["error"]
        assert error["type"] == "invalid_request_error" and words in error["message"]
        assert len(error["message"]) < 500
        assert (headers["allow"] is not None) == (status == 405)


def test_the_schema_promises_the_errors_that_there_are(embedded_shim: str) -> None:
    paths = json.loads(call(embedded_shim, "GET", "/openapi.json")[2])["paths"]
    assert set(WRITE) <= set(paths)
    for operations in paths.values():
        assert all({"200", "4XX"} == set(operation["responses"]) for operation in operations.values())


def test_browsers_may_call_from_the_allowed_origins_alone(embedded_shim: str, strict_shim: str) -> None:
    asked = {"Origin": ORIGIN, "Access_Control_Request_Method": "POST"}
    status, headers, _ = call(strict_shim, "OPTIONS", "/v1/completions", **asked)
    assert (status, headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert headers["x-request-id"]
    _, headers, _ = call(strict_shim, "GET", "/v1/models", Origin=ORIGIN)
    assert headers["access-control-allow-origin"] == ORIGIN
    _, headers, _ = call(strict_shim, "GET", "/v1/models", Origin="https://other.example")
    assert headers["access-control-allow-origin"] is None
    assert call(embedded_shim, "GET", "/v1/models", Origin=ORIGIN)[1]["access-control-allow-origin"] is None


@pytest.mark.parametrize(
    "template",
    [
        '{"prompt": "HALF"}',
        '{"prompt": ["fox", "HALF"]}',
        '{"prompt": "fox", "max_tokens": 2, "stop": "HALF"}',
        '{"prompt": "fox", "max_tokens": 2, "bad_words": ["HALF"]}',
        '{"prompt": "fox", "max_tokens": 2, "user": "HALF"}',
        '{"prompt": "fox", "max_tokens": 2, "model": "HALF"}',
        '{"prompt": "fox", "max_tokens": 2, "request_id": "HALF"}',
        '{"prompt": "fox", "max_tokens": 2, "stream": true, "request_id": "HALF"}',
        '{"prompt": "fox", "max_tokens": 2, "metadata": {"HALF": "HALF"}}',
        '{"prompt": "fox", "HALF": 1}',
        '{"prompt": "fox", "n": "HALF"}',
        '{"prompt": "fox", "logit_bias": {"HALF": 1}}',
        '{"prompt": "fox", "truncation_side": "HALF"}',
        '{"messages": [{"role": "HALF", "content": "fox"}]}',
        '{"messages": [{"role": "user", "content": "HALF"}]}',
        '{"messages": [{"role": "user", "content": [{"type": "HALF", "text": ""}]}]}',
        '{"messages": [{"role": "user", "HALF": "fox"}]}',
        '{"messages": [{"role": "HALF"}]}',
        '{"messages": [{"role": "user", "content": ""}], "chat_template_kwargs": {"HALF": "HALF"}, "max_tokens": 1}',
        '{"messages": [{"role": "user", "content": ""}], "reasoning_effort": "HALF", "max_tokens": 1}',
    ],
)
def test_half_a_surrogate_pair_is_quoted_safely_everywhere(shim: str, strict_shim: str, template: str) -> None:
    body = template.replace("HALF", HALF).encode()
    path = "/v1/chat/completions" if b"messages" in body else "/v1/completions"
    for server in (shim, strict_shim):
        request = urllib.request.Request(f"{server}{path}", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                content = answer.read().decode()
        except urllib.error.HTTPError as error:
            content = error.read().decode()
            assert 400 <= error.code < 500, content
            assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
        assert HALF not in content


def test_all_chunks_of_a_stream_have_one_time_and_one_id(shim: str) -> None:
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        # Long enough for a second to begin on most machines.
        more: dict[str, Any] = {"stream": True, "extra_body": {"ignore_eos": True}, "n": 2, "max_tokens": 2000}
        for chunks in (
            list(client.completions.create(model=MODEL, prompt="fox", **more)),
            list(client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "fox"}], **more)),
        ):
            assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/v1/completions", {"prompt": [10**6]}, "prompt", "The prompt has the token id 1000000"),
        ("/v1/completions", {"prompt": [[1], []]}, "prompt.1", "'prompt.1': The prompt is empty"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"999999": 1}}, "logit_bias", "logit_bias has the token id"),
        ("/v1/completions", {"prompt": "a", "min_tokens": 50}, "min_tokens", "min_tokens is 50"),
        ("/v1/chat/completions", {"messages": [{"role": "\ud800", "content": ""}]}, "messages", "surrogate"),
        ("/detokenize", {"tokens": [10**6]}, "tokens", "tokens has the token id"),
    ],
)
def test_errors_of_the_engine_name_the_parameter_and_no_id_of_its_own(
    shim: str, path: str, body: dict[str, Any], param: str, words: str
) -> None:
    status, answer = post(shim, path, json.dumps(body).encode())
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert answer["error"]["message"].startswith(words) or words == "surrogate" in answer["error"]["message"]
    assert "Request " not in answer["error"]["message"]


def test_tokenize_and_detokenize_have_vllms_shapes(embedded_shim: str) -> None:
    def ask(path: str, **body: Any) -> Any:
        status, answer = post(embedded_shim, path, json.dumps(body).encode())
        assert status == 200, answer
        return answer

    text = "a fox <|user|> 東京 🎉"
    special = ask("/tokenize", prompt=text)
    found = ask("/tokenize", prompt=text, return_token_strs=True, add_special_tokens=False)
    assert special["tokens"] == [special["tokens"][0], *found["tokens"]]
    assert set(found) == {"count", "max_model_len", "tokens", "token_strs"}
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert ask("/detokenize", tokens=found["tokens"]) == {"prompt": text}
    messages = [{"role": "user", "content": "fox"}]
    chat = ask("/tokenize", messages=messages)
    assert chat["token_strs"] is None and chat["max_model_len"] == 1 << 16
    usage = ask("/v1/chat/completions", messages=messages, max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == chat["count"]
    assert ask("/tokenize", messages=messages, add_generation_prompt=False)["count"] < chat["count"]
    for body in ({}, {"prompt": "fox", "messages": messages}):
        assert post(embedded_shim, "/tokenize", json.dumps(body).encode())[0] == 400


def test_tokenizer_info_has_what_a_client_needs_to_tokenize_and_render_here(embedded_shim: str, engine: Path) -> None:
    status, _, body = call(embedded_shim, "GET", "/tokenizer_info")
    config = json.loads((engine / "tokenizer" / "tokenizer_config.json").read_text())
    assert status == 200 and json.loads(body) == {
        "bos_token": config.get("bos_token"),
        "eos_token": config.get("eos_token"),
        "pad_token": None,
        "unk_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1 << 16,
        "chat_template": config["chat_template"],
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"prompt": "\xff"}', "not in UTF-8"),
        (b'{"prompt": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested too deeply"),
        (
            b'{"prompt": "fox", "seed": ' + b"9" * 5000 + b"}",
            "a number in it has more than 4300 digits.",
        ),
        (b'{"prompt": "fox", "stop": 5}', "'stop': Input should be a string or a list of strings"),
        (b'{"prompt": "fox", "truncate_prompt_tokens": 0}', "truncate_prompt_tokens is 0"),
    ],
)
def test_a_body_that_the_parser_cannot_read_is_refused_with_the_cause(
    embedded_shim: str, body: bytes, words: str
) -> None:
    status, answer = post(embedded_shim, "/v1/completions", body)
    assert status == 400 and words in answer["error"]["message"], answer
