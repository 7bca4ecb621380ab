"""Ollama's API with its own package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import ollama
import openai
import pytest
from pydantic import BaseModel

from tests.endpoint.conftest import MODEL, generating_shim
from tests.endpoint.tools.definitions import NOW, TOOLS
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

GREEDY = {"temperature": 0, "num_predict": 30}


@pytest.fixture
def client(url: str) -> ollama.Client:
    return ollama.Client(host=url, timeout=PATIENCE_S)


@pytest.fixture
def messages(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "fox " * int(rng.integers(1, 9))}]


def test_the_model_is_found(client: ollama.Client, url: str) -> None:
    (entry,) = client.list().models
    assert entry.model == MODEL and entry.size is not None and entry.details is not None
    shown = client.show(MODEL)
    assert shown.modelinfo is not None and shown.capabilities is not None
    name = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{name}.context_length"] == 2048
    assert {"completion", "tools", "thinking"} <= set(shown.capabilities)
    (running,) = client.ps().models
    assert (running.model, running.context_length) == (MODEL, 2048)
    version = httpx.get(f"{url}/api/version").json()["version"]
    assert [int(part) for part in version.split(".")]
    assert client.pull(MODEL).status == "success" and [each.status for each in client.pull(MODEL, stream=True)]
    with pytest.raises(ollama.ResponseError, match="inflight serve MODEL"):
        client.delete(MODEL)
    assert client.chat(MODEL).done_reason == "load"
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"


def test_the_same_text_as_openai_whole_and_streamed(
    client: ollama.Client, url: str, messages: list[dict[str, Any]]
) -> None:
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="none").chat.completions.create(
        model=MODEL, max_tokens=30, temperature=0, messages=messages
    )
    whole = client.chat(MODEL, messages, options=GREEDY | {"num_ctx": 4096}, logprobs=True, top_logprobs=2)
    text = whole.message.content
    assert text == other.choices[0].message.content and whole.done and whole.done_reason == "length"
    assert other.usage is not None and whole.prompt_eval_count == other.usage.prompt_tokens
    assert whole.eval_count == 30 and whole.logprobs is not None and len(whole.logprobs) == 30
    durations = (whole.prompt_eval_duration or 0) + (whole.eval_duration or 0)
    assert durations == whole.total_duration and durations > 0
    chunks = list(client.chat(MODEL, messages, options=GREEDY, stream=True))
    assert "".join(chunk.message.content or "" for chunk in chunks) == text
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True] and len(chunks) > 1
    generated = client.generate(f"{MODEL}:latest", messages[0]["content"], options=GREEDY)
    assert generated.response == text
    pieces = list(client.generate(MODEL, messages[0]["content"], options=GREEDY, stream=True))
    assert "".join(piece.response or "" for piece in pieces) == text
    assert pieces[-1].context == generated.context


def test_raw_prompts_and_the_context_of_an_earlier_answer(
    client: ollama.Client, url: str, messages: list[dict[str, Any]]
) -> None:
    prompt = messages[0]["content"]
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    raw = client.generate(MODEL, prompt, raw=True, options=GREEDY)
    same = other.completions.create(model=MODEL, prompt=prompt, max_tokens=30, temperature=0)
    assert raw.response == same.choices[0].text and raw.context is None
    first = client.generate(MODEL, prompt, options=GREEDY, system="Be short.")
    assert first.context is not None and len(first.context) == (first.prompt_eval_count or 0) + 30
    second = client.generate(MODEL, prompt, options=GREEDY, context=list(first.context))
    alone = client.generate(MODEL, prompt, options=GREEDY)
    assert second.prompt_eval_count == len(first.context) + (alone.prompt_eval_count or 0)


def test_thinking_is_told_apart_and_a_conversation_with_tools_goes_on(
    client: ollama.Client, messages: list[dict[str, Any]]
) -> None:
    thought = client.chat(MODEL, messages, think=True, options=GREEDY)
    assert thought.message.thinking and not thought.message.content
    for chunk in client.chat(MODEL, messages, think=True, options=GREEDY, stream=True):
        assert not chunk.message.content
    assert client.chat(MODEL, messages, think=False, options=GREEDY).message.content
    call: Any = {"function": {"name": "now", "arguments": {}}}
    more = [
        *messages,
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_name": "now"},
    ]
    answer = client.chat(MODEL, more, tools=TOOLS, options=GREEDY)
    assert answer.message.content and answer.eval_count == 30


def test_formats_and_stop(client: ollama.Client, messages: list[dict[str, Any]]) -> None:
    class Answer(BaseModel, extra="forbid"):
        yes: bool

    options = {"temperature": 0, "num_predict": 200, "seed": 3}
    found = client.chat(MODEL, messages, format=Answer.model_json_schema(), think=False, options=options)
    jsonschema.validate(json.loads(found.message.content or ""), Answer.model_json_schema())
    generated = client.generate(MODEL, "fox", format={"enum": ["red", 7]}, think=False, options=options)
    assert json.loads(generated.response or "") in ("red", 7) and generated.done_reason == "stop"
    text = client.generate(MODEL, "fox", options=GREEDY).response or ""
    assert (
        client.generate(MODEL, "fox", options=GREEDY | {"stop": [text[8:11]]}).response
        == text[: text.index(text[8:11])]
    )


def test_a_call_is_a_call_whole_and_streamed(dialect_engine: Path) -> None:
    """Nothing forces a call in this API: a schema makes the answer a string that has one in it."""
    text = "<tool_call><function=now></function></tool_call>"
    options = {"temperature": 0, "num_predict": 200}
    messages: list[Any] = [{"role": "user", "content": "fox"}]
    asked: dict[str, Any] = {"format": {"const": text}, "think": False, "options": options, "tools": [NOW]}
    with generating_shim(dialect_engine, tool_call_parser="qwen3_coder") as url:
        client = ollama.Client(host=url, timeout=PATIENCE_S)
        whole = client.chat(MODEL, messages, **asked)
        chunks = list(client.chat(MODEL, messages, stream=True, **asked))
    (call,) = list(whole.message.tool_calls or [])
    assert (call.function.name, call.function.arguments) == ("now", {})
    assert [each for chunk in chunks for each in chunk.message.tool_calls or ()] == [call]
    assert whole.message.content == '""' and whole.done_reason == "stop"


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"options": {"num_predikt": 3}}, "num_predikt"),
    ("chat", {"options": {"mirostat": 2}}, "Mirostat"),
    ("chat", {"options": {"temperature": -1}}, "temperature"),
    ("chat", {"options": {"repeat_penalty": -1}}, "repeat_penalty"),
    ("chat", {"messages": [{"role": "user", "content": "x", "images": ["AAAA"]}]}, "images"),
    ("chat", {"format": "xml"}, "JSON schema"),
    ("chat", {"format": {"type": "none"}}, "none"),
    ("chat", {"messages": [{"role": "tool", "content": "x"}]}, "no call waits"),
    ("chat", {"tools": [{"type": "function", "function": {}}]}, "name"),
    ("chat", {"model": None}, "model"),
    ("generate", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("generate", {"prompt": "x", "template": "y"}, "template"),
    ("generate", {"prompt": "x" * 50_000}, "context length"),
    ("generate", {"prompt": 3}, "prompt"),
    ("pull", {"model": None}, "model"),
    ("push", {}, "inflight serve MODEL"),
    ("rename", {}, "/api/rename"),
]


@pytest.mark.parametrize(("route", "change", "words"), BAD)
def test_bad_input_is_named_in_ollamas_shape(url: str, route: str, change: dict[str, Any], words: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]} if route == "chat" else {"model": MODEL}
    answer = httpx.post(f"{url}/api/{route}", json=body | change, timeout=PATIENCE_S)
    assert answer.status_code in (400, 404) and set(answer.json()) == {"error"} and words in answer.json()["error"]


def test_the_package_raises_what_is_wrong(client: ollama.Client, embedding_shim: str) -> None:
    with pytest.raises(ollama.ResponseError, match="images"):
        client.chat(MODEL, [{"role": "user", "content": "x", "images": ["AAAA"]}], stream=False)
    with pytest.raises(ollama.ResponseError, match="generates text"):
        client.embed(MODEL, "x")
    with pytest.raises(ollama.ResponseError, match="makes embeddings"):
        ollama.Client(host=embedding_shim).generate(MODEL, "x")


def test_embeddings(embedding_shim: str, rng: np.random.Generator) -> None:
    client = ollama.Client(host=embedding_shim, timeout=PATIENCE_S)
    texts = ["fox " * int(rng.integers(1, 9)) for _ in range(3)]
    other = openai.OpenAI(base_url=f"{embedding_shim}/v1", api_key="none").embeddings.create(model=MODEL, input=texts)
    expected = np.array([each.embedding for each in other.data])
    found = client.embed(MODEL, texts)
    norms = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.array(found.embeddings), expected / norms, rtol=1e-5, atol=1e-6)
    assert found.prompt_eval_count == other.usage.prompt_tokens
    short = client.embed(MODEL, texts[0], dimensions=3)
    assert len(short.embeddings) == 1 and len(short.embeddings[0]) == 3
    old = client.embeddings(MODEL, texts[1])
    np.testing.assert_allclose(np.array(old.embedding), expected[1], rtol=1e-5, atol=1e-6)
    assert client.embed(MODEL, "fox " * 3000).embeddings
    with pytest.raises(ollama.ResponseError, match="tokens"):
        client.embed(MODEL, "fox " * 3000, truncate=False)
    with pytest.raises(ollama.ResponseError, match=r"'input\.1': .*\n.*or set truncate\."):
        client.embed(MODEL, ["fox", "fox " * 101], truncate=False)
    assert client.show(MODEL).capabilities == ["embedding"]
