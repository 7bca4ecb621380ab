"""POST /v1/embeddings through the openai package, beside the offline interface on the same engine."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import typer

from inflight.cli.offline.chat import chat
from inflight.engine_format.manifest import PoolingFacts
from inflight.errors import RequestError
from inflight.runtime import LLM
from inflight.triton_backend.openai.protocol.pooling import EmbeddingBody
from tests.endpoint.conftest import MODEL
from tests.endpoint.openai_api.mutations import Call, draw
from tests.endpoint.openai_api.test_bad_input import problem, run
from tests.endpoint.openai_api.test_openai_api import metric
from tests.models.tiny_tokenizers import random_text
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.endpoint

JSON = {"Content-Type": "application/json"}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {
        "model": MODEL,
        "input": ["a lazy fox", "東京", "dog"],
        "encoding_format": "base64",
        "dimensions": 3,
        "truncate_prompt_tokens": 5,
        "add_special_tokens": True,
        "prompt_name": "query",
        "user": "me",
    },
    "/tokenize": {"prompt": "fox"},
}


@pytest.fixture
def client(embedding_shim: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{embedding_shim}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as opened:
        yield opened


@pytest.fixture(scope="module")
def llm(embedding_engine: Path) -> Iterator[LLM]:
    with LLM(embedding_engine, threads=1) as opened:
        yield opened


def offline(llm: LLM, prompts: Any, **options: Any) -> Any:
    outputs = llm.embed(prompts, use_tqdm=False, **options)
    return [each.outputs.embedding for each in outputs], sum(len(each.prompt_token_ids) for each in outputs)


def found(answer: Any) -> list[list[float]]:
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return [each.embedding for each in answer.data]


def test_every_form_of_input_has_the_vectors_of_the_offline_interface(
    client: openai.OpenAI, llm: LLM, rng: np.random.Generator
) -> None:
    texts = [random_text(rng) + "fox" for _ in range(int(rng.integers(1, 20)))]
    ids = [[int(token) for token in rng.integers(4, 100, length)] for length in (1, 7, 100)]
    for given, prompts in ((texts[0], texts[:1]), (texts, texts), (ids[1], ids[1:2]), (ids, ids)):
        expected, tokens = offline(llm, prompts)
        for more in ({}, {"encoding_format": "float"}):
            answer = client.embeddings.create(model=MODEL, input=given, **more)
            np.testing.assert_array_equal(found(answer), expected)
            assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
            assert answer.model == MODEL


def vector_size(llm: LLM) -> int:
    assert isinstance(llm.manifest.pooling, PoolingFacts)
    return llm.manifest.pooling.vector_size


def test_dimensions_prompts_and_truncation_are_those_of_the_offline_interface(
    client: openai.OpenAI, llm: LLM, rng: np.random.Generator
) -> None:
    size, text = vector_size(llm), "the quick brown fox jumps over the lazy dog " * 20
    few = int(rng.integers(1, size + 1))
    for extra in ({"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": 9, "prompt_name": "query"}):
        answer = client.embeddings.create(model=MODEL, input=text, dimensions=few, extra_body=extra)
        expected, tokens = offline(llm, text, dimensions=few, **extra)
        np.testing.assert_array_equal(found(answer), expected)
        assert answer.usage.prompt_tokens == tokens == (100 if len(extra) == 1 else 9)
        assert len(expected[0]) == few
    whole = offline(llm, "fox")[0][0]
    pooling = llm.manifest.pooling
    if isinstance(pooling, PoolingFacts) and pooling.normalize:
        for vector in (expected[0], whole):  # a ReLU behind the pooling can leave zeros alone, which have no length 1
            assert abs(np.linalg.norm(vector) - 1) < 1e-5 or not np.any(vector)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["fox", ""]}, "input.1"),
        ({"input": [[]]}, "input"),
        ({"input": [[5, 6], []]}, "input.1"),
        ({"input": "fox " * 200}, "input"),
        ({"input": [5] * 101}, "input"),
        ({"input": [5, 100_000]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": ["\ud800"]}, "input"),
        ({"input": "a\udc00"}, "input"),
        ({"input": 5}, "input"),
        ({"input": [None]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": {"text": "fox"}}, "input"),
        ({"input": ["fox", [5]]}, "input"),
        ({"input": ["fox"] * 2049}, "input"),
        ({}, "input"),
        ({"input": "fox", "dimensions": 0}, "dimensions"),
        ({"input": "fox", "dimensions": 10**6}, "dimensions"),
        ({"input": "fox", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "fox", "truncate_prompt_tokens": 101}, "truncate_prompt_tokens"),
        ({"input": "fox", "truncate_prompt_tokens": 2}, "truncate_prompt_tokens"),
        ({"input": "fox", "prompt_name": "nothing"}, "prompt_name"),
        ({"input": "fox", "priority": 5}, "priority"),
        ({"input": "fox", "unknown": 1}, "unknown"),
    ],
)
def test_bad_input_is_an_error_that_names_it(embedding_shim: str, given: dict[str, Any], param: str) -> None:
    url = f"{embedding_shim}/v1/embeddings"
    answer = httpx.post(url, content=json.dumps(given), headers=JSON, timeout=PATIENCE_S)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error" and error["param"].startswith(param) and error["message"]


def test_a_text_that_is_too_long_is_told_both_lengths(embedding_shim: str) -> None:
    for given in ("fox " * 150, [5] * 102):
        answer = httpx.post(f"{embedding_shim}/v1/embeddings", json={"input": given}, timeout=PATIENCE_S)
        message = answer.json()["error"]["message"]
        assert "100" in message and ("152" in message or "102" in message)


def test_the_model_says_what_it_is_for(embedding_shim: str, embedded_shim: str, llm: LLM) -> None:
    (model,) = httpx.get(f"{embedding_shim}/v1/models").json()["data"]
    assert (model["task"], model["dimensions"]) == ("embed", vector_size(llm))
    assert httpx.get(f"{embedded_shim}/v1/models").json()["data"][0]["task"] == "generate"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/classify"])
def test_routes_of_other_tasks_say_what_the_model_is_for(embedding_shim: str, path: str) -> None:
    refused(embedding_shim + path, "makes embeddings of texts: /v1/embeddings")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank"])
def test_an_engine_that_generates_says_so(shim: str, path: str) -> None:
    refused(shim + path, "generates text: /v1/chat/completions")


def refused(url: str, what: str) -> None:
    for body in ({}, {"input": "fox"}, {"messages": [{"role": "user", "content": "fox"}]}):
        answer = httpx.post(url, json=body, timeout=PATIENCE_S)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "model_not_supported", "model")
        assert what in error["message"]


def test_many_clients_at_once_each_get_their_own(embedding_shim: str, llm: LLM, rng: np.random.Generator) -> None:
    requests = [[random_text(rng) + "dog" for _ in range(int(rng.integers(1, 30)))] for _ in range(16)]
    expected = [offline(llm, texts)[0] for texts in requests]
    url = f"{embedding_shim}/v1/embeddings"

    def ask(texts: list[str]) -> Any:
        answer = httpx.post(url, json={"input": texts}, timeout=PATIENCE_S)
        return [each["embedding"] for each in answer.json()["data"]]

    with ThreadPoolExecutor(8) as pool:
        for vectors, wanted in zip(pool.map(ask, requests), expected, strict=True):
            np.testing.assert_allclose(vectors, wanted, atol=1e-5)


def test_a_client_that_leaves_takes_its_texts_along(embedding_shim: str, client: openai.OpenAI) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient(timeout=PATIENCE_S) as asking:
            call = asking.post(f"{embedding_shim}/v1/embeddings", json={"input": ["fox " * 90] * 2000})
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call, 0.2)

    asyncio.run(leave())
    assert eventually(lambda: metric(embedding_shim, "inflight_requests_running") == 0)
    if shim_has_engine(embedding_shim):
        assert eventually(lambda: metric(embedding_shim, "inflight_engine_waiting") == 0)
    assert len(found(client.embeddings.create(model=MODEL, input="fox"))) == 1


def shim_has_engine(shim: str) -> bool:
    return "inflight_engine_waiting" in httpx.get(f"{shim}/metrics").text


def test_mutated_bodies_get_an_answer_or_an_error_of_the_api(embedding_shim: str, seed: int) -> None:
    drawn = random.Random(seed)
    names = sorted({*EmbeddingBody.model_fields, "messages", "dimension"})
    for call in [draw(drawn, names, GOOD) for _ in range(150)]:
        wrong = problem(run(embedding_shim, call), call)
        assert wrong is None, f"{call.short()}\n  -> {wrong}"
    assert run(embedding_shim, Call("POST", "/v1/embeddings", b'{"input": "fox"}'))[0] == 200


def test_chatting_with_the_engine_says_what_to_do_instead(embedding_engine: Path) -> None:
    app = typer.Typer()
    app.command()(chat)
    with pytest.raises(RequestError, match=r"(?s)makes vectors of texts.*/v1/embeddings.*\.embed") as error:
        app([str(embedding_engine)], standalone_mode=False)
    assert str(embedding_engine) in error.value.message
