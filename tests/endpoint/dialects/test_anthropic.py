"""Anthropic's Messages API with its own package."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import jsonschema
import numpy as np
import openai
import pytest
from pydantic import BaseModel

from tests.endpoint.conftest import MODEL
from tests.endpoint.tools.definitions import TOOLS, parameters_of
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint

CLIENT_TOOLS: list[Any] = [
    {
        "name": each["function"]["name"],
        "input_schema": each["function"].get("parameters", {"type": "object", "properties": {}}),
    }
    for each in TOOLS
]


@pytest.fixture
def client(url: str) -> Any:
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE_S)


def asked(rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    """Greedy, so that a second answer is the same. The package no longer names the parameters of sampling."""
    content = "fox " * int(rng.integers(1, 9))
    messages: list[Any] = [{"role": "user", "content": content}]
    sampling = {"temperature": 0, "top_p": 0.9, "top_k": 50}
    return {"model": MODEL, "max_tokens": 40, "messages": messages, "extra_body": sampling, **more}


def test_the_same_text_as_openai(client: Any, url: str, rng: np.random.Generator) -> None:
    body = asked(rng, system=[{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}])
    message = client.messages.create(**body)
    other = openai.OpenAI(base_url=f"{url}/v1", api_key="none").chat.completions.create(
        model=MODEL,
        max_tokens=40,
        temperature=0,
        messages=[{"role": "system", "content": "Be short."}, *body["messages"]],
    )
    (block,) = message.content
    assert block.type == "text" and block.text == other.choices[0].message.content
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    usage = message.usage
    assert other.usage is not None and usage.output_tokens == other.usage.completion_tokens == 40
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == other.usage.prompt_tokens
    counted = client.messages.count_tokens(model=MODEL, messages=body["messages"], system=body["system"])
    assert counted.input_tokens == other.usage.prompt_tokens


def test_a_stream_is_the_whole_message(client: Any, rng: np.random.Generator) -> None:
    """With the package's own accumulation, and the order of the events."""
    choice = {"type": "any", "disable_parallel_tool_use": bool(rng.integers(2))}
    thinking = {"type": "enabled", "budget_tokens": int(rng.integers(5, 30))}
    body = asked(rng, tools=CLIENT_TOOLS, tool_choice=choice, thinking=thinking, max_tokens=600)
    whole = client.messages.create(**body)
    with client.messages.stream(**body) as stream:
        kinds = [event.type for event in stream]
    found = stream.get_final_message()
    for message in (whole, found):
        for block in message.content:
            if block.type == "tool_use":
                assert block.id
                block.id = ""
    assert [each.to_dict() for each in found.content] == [each.to_dict() for each in whole.content]
    assert (found.stop_reason, found.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(found.content)
    first = whole.content[0]
    assert first.type == "thinking" and first.thinking and first.signature
    assert whole.usage.output_tokens_details is not None
    assert whole.usage.output_tokens_details.thinking_tokens == thinking["budget_tokens"]
    calls = [each for each in whole.content if each.type == "tool_use"]
    assert calls
    for call in calls if whole.stop_reason == "tool_use" else calls[:-1]:
        jsonschema.validate(call.input, parameters_of(call.name))


def test_a_conversation_with_tools_goes_on(client: Any, rng: np.random.Generator) -> None:
    body = asked(rng, tools=CLIENT_TOOLS, tool_choice={"type": "tool", "name": "now"}, max_tokens=100)
    body["thinking"] = {"type": "enabled", "budget_tokens": 5}
    answer = client.messages.create(**body)
    assert answer.stop_reason == "tool_use"
    (call,) = [block for block in answer.content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "noon"}]}
    next_one: list[Any] = [
        *body["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result, {"type": "text", "text": "and then?"}]},
    ]
    plain = client.messages.create(model=MODEL, max_tokens=5, messages=next_one, tools=CLIENT_TOOLS)
    assert plain.content
    more = client.messages.count_tokens(model=MODEL, messages=next_one, tools=CLIENT_TOOLS).input_tokens
    assert more > client.messages.count_tokens(model=MODEL, messages=body["messages"]).input_tokens + len("noon")


def test_thinking_is_shown_where_it_is_asked_for(client: Any, rng: np.random.Generator) -> None:
    body = asked(rng, max_tokens=60)
    thinking = {"type": "enabled", "budget_tokens": 20}
    shown = client.messages.create(**body, thinking=thinking)
    assert [block.type for block in shown.content] == ["thinking", "text"]
    omitted = client.messages.create(**body, thinking={**thinking, "display": "omitted"})
    first = omitted.content[0]
    assert first.type == "thinking" and (first.thinking, bool(first.signature)) == ("", True)
    assert omitted.content[1].to_dict() == shown.content[1].to_dict()
    with client.messages.stream(**body, thinking={**thinking, "display": "omitted"}) as stream:
        kinds = [event.type for event in stream]
    assert "thinking" not in kinds and "signature" in kinds
    for without in ({}, {"thinking": {"type": "disabled"}}):
        assert [block.type for block in client.messages.create(**body, **without).content] == ["text"]


def test_stop_sequences_and_the_end_of_the_context(client: Any, rng: np.random.Generator) -> None:
    body = asked(rng)
    (block,) = client.messages.create(**body).content
    assert block.type == "text"
    stop = block.text[10:13]
    stopped = client.messages.create(**body, stop_sequences=["never seen here", stop])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    ended = client.messages.create(**{**body, "max_tokens": 100_000})
    assert ended.stop_reason == "model_context_window_exceeded"


def test_a_prefilled_answer_goes_on_and_a_schema_is_followed(client: Any, rng: np.random.Generator) -> None:
    class Answer(BaseModel):
        yes: bool

    body = asked(rng)
    begun = [*body["messages"], {"role": "assistant", "content": "The best answer is ("}]
    counted = client.messages.count_tokens(model=MODEL, messages=begun).input_tokens
    assert client.messages.create(**{**body, "messages": begun}).usage.output_tokens == 40
    assert counted > client.messages.count_tokens(model=MODEL, messages=body["messages"]).input_tokens
    schema = {"type": "json_schema", "schema": {"enum": ["red", 7]}}
    (text,) = client.messages.create(
        **{**body, "max_tokens": 99}, thinking=OFF, output_config={"format": schema}
    ).content
    assert text.type == "text" and json.loads(text.text) in ("red", 7)
    parsed = client.messages.parse(**{**body, "max_tokens": 99}, thinking=OFF, output_format=Answer)
    assert isinstance(parsed.parsed_output, Answer)


OFF: Any = {"type": "disabled"}
USER: dict[str, Any] = {"role": "user", "content": "fox"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
CALL = {"type": "tool_use", "id": "a", "name": "now", "input": {}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"extra_body": {"temperature": -1}}, "temperature"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, "does not support images"),
    ({"messages": [{"role": "user", "content": [CALL]}]}, "messages.0.content.0"),
    ({"messages": [USER, {"role": "assistant", "content": [CALL]}]}, "tool_result"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "needs 'text'"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
    ({"tools": [{"name": "f"}]}, "input_schema"),
    ({"tools": CLIENT_TOOLS, "tool_choice": {"type": "tool", "name": "f"}}, "'f', which is not among"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "none"}}}}, "output_config.format|schema"),
    ({"stop_sequences": ["x"] * 200}, "stop_sequences"),
    ({"extra_body": {"mcp_servers": [{"url": "x"}]}}, "mcp_servers"),
    ({"extra_body": {"max_token": 4}}, "Unknown parameter: 'max_token'"),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_input_is_named_in_anthropics_shape(
    client: Any, rng: np.random.Generator, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=words) as refusal:
        client.messages.create(**{**asked(rng), **change})
    body: Any = refusal.value.body
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"


def test_the_model_is_listed(client: Any) -> None:
    (model,) = client.models.list()
    assert (model.id, model.type, model.max_input_tokens) == (MODEL, "model", 2047) and model.created_at.year > 2000
    assert client.models.retrieve(MODEL).to_dict() == model.to_dict()


def test_errors_without_a_body_have_the_shape_too(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as refusal:
        client.messages.batches.list()
    body: Any = refusal.value.body
    assert body["error"]["type"] == "not_found_error"
