"""Reasoning through real servers with the openai package: told apart, counted, limited, and before structured output.

The engine says anything that it may (a null engine): a budget ends its reasoning.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest

from tests.endpoint.conftest import MODEL
from tests.engines.random_schemas import random_schema

pytestmark = pytest.mark.endpoint

OPENED = {"chat_template_kwargs": {"opened": True}}
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


def asked(rng: np.random.Generator, more: dict[str, Any], **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "fox " * int(rng.integers(1, 9))}]
    return {"model": MODEL, "messages": messages, "seed": int(rng.integers(1 << 30)), "extra_body": more, **body}


def streamed(client: openai.OpenAI, body: dict[str, Any]) -> tuple[list[list[str]], Any]:
    """Per choice the reasoning under both of its names and the content; and the usage."""
    joined = [["", "", ""] for _ in range(body.get("n", 1))]
    usage = None
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **body):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            delta: Any = choice.delta
            for place, name in enumerate(("reasoning_content", "reasoning", "content")):
                joined[choice.index][place] += getattr(delta, name, None) or ""
    return joined, usage


def test_reasoning_is_told_apart_and_counted(client: openai.OpenAI, rng: np.random.Generator) -> None:
    budget = int(rng.integers(5, 40))
    body = asked(rng, OPENED | {"thinking_token_budget": budget}, max_tokens=90, n=2)
    whole: Any = client.chat.completions.create(**body)
    for choice in whole.choices:
        message = choice.message
        assert message.reasoning_content and message.reasoning_content == message.reasoning
        assert "</think>" not in message.content and choice.finish_reason == "length"
    details = whole.usage.completion_tokens_details
    assert details.reasoning_tokens == 2 * budget and whole.usage.completion_tokens == 180
    parts, usage = streamed(client, body)
    assert parts == [[each.message.reasoning] * 2 + [each.message.content] for each in whole.choices]
    assert usage.completion_tokens_details.reasoning_tokens == 2 * budget


def test_it_can_be_left_out_of_the_answer(client: openai.OpenAI, rng: np.random.Generator) -> None:
    body = asked(rng, OPENED | {"thinking_token_budget": 9}, max_tokens=60)
    shown: Any = client.chat.completions.create(**body)
    body["extra_body"] = body["extra_body"] | {"include_reasoning": False}
    hidden: Any = client.chat.completions.create(**body)
    assert hidden.choices[0].message.content == shown.choices[0].message.content
    assert getattr(hidden.choices[0].message, "reasoning", None) is None
    assert hidden.usage.completion_tokens_details.reasoning_tokens == 9
    assert streamed(client, body)[0] == [["", "", hidden.choices[0].message.content]]


def test_reasoning_that_is_cut_off_has_no_content(client: openai.OpenAI, rng: np.random.Generator) -> None:
    answer: Any = client.chat.completions.create(**asked(rng, OPENED, max_tokens=20, logprobs=True, top_logprobs=1))
    (choice,) = answer.choices
    assert choice.message.content is None and choice.message.reasoning and choice.finish_reason == "length"
    assert answer.usage.completion_tokens_details.reasoning_tokens == 20
    assert len(choice.logprobs.content) == 20


def test_an_effort_of_none_and_enable_thinking_turn_it_off(client: openai.OpenAI, rng: np.random.Generator) -> None:
    for off in (OFF, {"reasoning_effort": "none"}):
        answer: Any = client.chat.completions.create(**asked(rng, off | {"thinking_token_budget": 3}, max_tokens=30))
        assert answer.choices[0].message.reasoning is None and answer.choices[0].message.content
        assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_stop_strings_end_reasoning_and_content(client: openai.OpenAI, rng: np.random.Generator) -> None:
    body = asked(rng, OPENED | {"thinking_token_budget": 20}, max_tokens=60)
    plain: Any = client.chat.completions.create(**body).choices[0].message
    for name in ("reasoning", "content"):
        text = getattr(plain, name)
        stop = text[len(text) // 2 :][:3]
        choice: Any = client.chat.completions.create(**body, stop=[stop]).choices[0]
        stopped = getattr(choice.message, name) or ""
        assert text.startswith(stopped) and stop not in stopped and choice.finish_reason == "stop", (text, stop)
        if name == "reasoning":
            assert choice.message.content is None


@pytest.mark.parametrize("template", [{}, {"opened": True}, {"enable_thinking": False}])
def test_structured_output_begins_behind_it(
    client: openai.OpenAI, template: dict[str, Any], rng: np.random.Generator
) -> None:
    for _ in range(4):
        schema, budget = random_schema(rng), int(rng.integers(0, 30))
        format_ = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        more = {"chat_template_kwargs": template, "thinking_token_budget": budget}
        body = asked(rng, more, max_tokens=2000, n=2, response_format=format_)
        answer: Any = client.chat.completions.create(**body)
        for choice in answer.choices:
            if choice.finish_reason == "stop":
                jsonschema.validate(json.loads(choice.message.content), schema, jsonschema.Draft202012Validator)
            if template.get("opened"):
                assert choice.message.reasoning or budget == 0
            if "enable_thinking" in template:
                assert choice.message.reasoning is None
        contents = [each.message.content or "" for each in answer.choices]
        assert [each[2] for each in streamed(client, body)[0]] == contents


def test_calls_that_are_required_come_behind_it(client: openai.OpenAI, rng: np.random.Generator) -> None:
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"days": {"type": "integer", "minimum": 0, "maximum": 9}},
    }
    parameters |= {"required": ["days"], "additionalProperties": False}
    tools: Any = [{"type": "function", "function": {"name": "forecast", "parameters": parameters}}]
    body = asked(rng, OPENED | {"thinking_token_budget": 12}, max_tokens=500, tools=tools, tool_choice="required")
    body["parallel_tool_calls"] = False
    answer: Any = client.chat.completions.create(**body)
    message = answer.choices[0].message
    assert message.reasoning and message.content is None
    for call in message.tool_calls:
        jsonschema.validate(json.loads(call.function.arguments), parameters)


@pytest.mark.parametrize("budget", [-2, "many", 1.5])
def test_a_wrong_budget_is_refused(client: openai.OpenAI, budget: Any, rng: np.random.Generator) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**asked(rng, {"thinking_token_budget": budget}, max_tokens=5))
    assert refusal.value.param == "thinking_token_budget"


def test_a_budget_of_what_does_not_reason_is_refused(
    client: openai.OpenAI, embedded_shim: str, rng: np.random.Generator
) -> None:
    plain = openai.OpenAI(base_url=f"{embedded_shim}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="does not mark any"):
        plain.chat.completions.create(**asked(rng, {"thinking_token_budget": 3}, max_tokens=5))
    with pytest.raises(openai.BadRequestError, match="chat completions have one"):
        client.completions.create(model=MODEL, prompt="fox", extra_body={"thinking_token_budget": 3})
    assert client.completions.create(model=MODEL, prompt="fox", extra_body={"thinking_token_budget": -1})


def test_an_answer_that_was_begun_goes_on_where_it_was(client: openai.OpenAI, rng: np.random.Generator) -> None:
    for begun, is_reasoning in (("<think>\nThe fox", True), ("The fox", False)):
        more = {"continue_final_message": True, "add_generation_prompt": False}
        body = asked(rng, more, max_tokens=12)
        body["messages"] = [*body["messages"], {"role": "assistant", "content": begun}]
        answer: Any = client.chat.completions.create(**body)
        assert bool(answer.choices[0].message.reasoning) is is_reasoning


def test_it_is_read_as_the_pages_of_sglang_and_deepseek_do(client: openai.OpenAI, rng: np.random.Generator) -> None:
    """Every chunk has reasoning_content, and its content can be added."""
    body = asked(rng, OPENED | {"thinking_token_budget": 9, "separate_reasoning": True}, max_tokens=30)
    whole: Any = client.chat.completions.create(**body)
    assert whole.choices[0].message.reasoning_content

    def read(**more: Any) -> tuple[str, str, int]:
        reasoning, content, pieces = "", "", 0
        for chunk in client.chat.completions.create(
            **{**body, "extra_body": body["extra_body"] | more, "stream": True}
        ):
            delta = chunk.choices[0].delta
            if delta.reasoning_content:
                reasoning, pieces = reasoning + delta.reasoning_content, pieces + 1
            else:
                content += delta.content
        return reasoning, content, pieces

    parts = (whole.choices[0].message.reasoning_content, whole.choices[0].message.content)
    assert read()[:2] == parts and read(stream_reasoning=False) == (*parts, 1)
    body["extra_body"]["separate_reasoning"] = False
    together: Any = client.chat.completions.create(**body)
    assert "</think>" in together.choices[0].message.content
    assert parts[0][:5] in together.choices[0].message.content
    assert together.usage.completion_tokens_details.reasoning_tokens == 9
