"""LLM.chat over the null target, which says anything that it may: calls, reasoning and content are told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from inflight.errors import InflightError, RequestError
from inflight.runtime import LLM, SamplingParams, StructuredOutputs
from tests.endpoint.reasoning.conftest import TEMPLATE
from tests.endpoint.tools.definitions import TOOLS, parameters_of
from tests.engines.serving_engines import write_null_engine

pytestmark = pytest.mark.unit

MESSAGES = [{"role": "user", "content": "fox"}]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    directory = tmp_path_factory.mktemp("null") / "engine"
    with LLM(write_null_engine(directory, max_seq_len=8192, chat_template=TEMPLATE)) as llm:
        yield llm


@pytest.fixture
def params(rng: np.random.Generator) -> SamplingParams:
    return SamplingParams(seed=int(rng.integers(1 << 30)), max_tokens=3000)


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def check(call: Any) -> None:
    schema = parameters_of(call.name)
    jsonschema.validate(json.loads(call.arguments), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("choice", ["required", named("get_weather")])
def test_forced_calls_are_parsed_and_of_their_schemas(llm: LLM, params: SamplingParams, choice: Any) -> None:
    off = {"enable_thinking": False}
    (output,) = llm.chat(MESSAGES, params, tools=TOOLS, tool_choice=choice, chat_template_kwargs=off)
    (answer,) = output.outputs
    assert answer.content is None and answer.reasoning is None and answer.tool_calls
    for call in answer.tool_calls:
        check(call)
        assert call.id.startswith("call_") and call.arguments in answer.text
    if choice != "required":
        assert [call.name for call in answer.tool_calls] == ["get_weather"]
    assert answer.message["tool_calls"][0]["function"] == {
        "name": answer.tool_calls[0].name,
        "arguments": answer.tool_calls[0].arguments,
    }
    prompt = llm.tokenizer.render_chat(
        [*MESSAGES, answer.message, {"role": "tool", "content": "7"}], tools=TOOLS, adapt_tools=True
    )
    assert f'"name": "{answer.tool_calls[0].name}"' in prompt


def test_parallel_tool_calls_may_be_refused(llm: LLM, params: SamplingParams) -> None:
    off = {"enable_thinking": False}
    (output,) = llm.chat(
        MESSAGES, params, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, chat_template_kwargs=off
    )
    assert len(output.outputs[0].tool_calls) == 1


def test_a_structure_begins_behind_the_reasoning(llm: LLM, params: SamplingParams, rng: np.random.Generator) -> None:
    params = replace(params, structured_outputs=StructuredOutputs(choice=["yes", "no"]))
    (output,) = llm.chat(MESSAGES, params, reasoning_effort="none")
    assert output.outputs[0].content in ("yes", "no") and output.outputs[0].reasoning is None
    budget = int(rng.integers(5, 40))
    opened = {"opened": True}
    (output,) = llm.chat(MESSAGES, params, chat_template_kwargs=opened, thinking_token_budget=budget)
    answer = output.outputs[0]
    assert answer.reasoning and answer.content in ("yes", "no") and answer.finish_reason == "stop"
    assert answer.text == f"{answer.reasoning}</think>{answer.content}" or answer.text.endswith(answer.content)
    assert answer.message == {"role": "assistant", "content": answer.content, "reasoning_content": answer.reasoning}


def test_a_stream_grows_into_what_comes_whole(llm: LLM, params: SamplingParams) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "thinking_token_budget": 20}
    (whole,) = llm.chat([MESSAGES], params, chat_template_kwargs={"opened": True}, **asked)
    stream = llm.chat(MESSAGES, params, stream=True, chat_template_kwargs={"opened": True}, **asked)
    grown: list[Any] = [output.outputs[0] for output in stream]
    wanted = whole.outputs[0]
    assert wanted.tool_calls and wanted.reasoning
    assert [(c.name, c.arguments) for c in grown[-1].tool_calls] == [(c.name, c.arguments) for c in wanted.tool_calls]
    assert (grown[-1].reasoning, grown[-1].content) == (wanted.reasoning, wanted.content)
    lengths = [sum(len(call.arguments) for call in each.tool_calls) for each in grown]
    assert lengths == sorted(lengths) and "".join(each.text_delta for each in grown) == wanted.text


def test_without_tools_and_reasoning_the_text_is_content(llm: LLM, params: SamplingParams) -> None:
    asked: list[dict[str, Any]] = [{}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": []}]
    for more in asked:
        (output,) = llm.chat(MESSAGES, SamplingParams(max_tokens=30), reasoning_parser="none", **more)
        assert output.outputs[0].content == output.outputs[0].text and not output.outputs[0].tool_calls
        assert "get_weather" not in (output.prompt or "")
    (output,) = llm.generate("fox", SamplingParams(max_tokens=3))
    assert output.outputs[0].content is None


def test_a_message_can_be_continued(llm: LLM) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "Once upon"}]
    (output,) = llm.chat(messages, SamplingParams(max_tokens=3), continue_final_message=True)
    assert output.prompt is not None and output.prompt.endswith("Once upon")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": TOOLS, "tool_choice": "maybe"}, "tool_choice is 'maybe'"),
        ({"tools": TOOLS, "tool_choice": {"name": "add"}}, "tool_choice is"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": TOOLS, "tool_choice": named("fly")}, "names 'fly', which is not among the tools: get_weather, add"),
        ({"tools": [{"type": "function"}]}, "tools.0.function.name"),
        ({"tools": ["add"]}, "tools.0.function.name"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "Two tools have the name 'get_weather'"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}], "tool_choice": "auto"}, None),
        ({"tools": [{"function": {"name": "f", "parameters": {"type": "array"}}}]}, "parameters.type"),
        ({"tool_call_parser": "smoke", "tools": TOOLS}, "smoke"),
        ({"reasoning_parser": "smoke"}, "smoke"),
        ({"reasoning_parser": "none", "thinking_token_budget": 3}, "thinking_token_budget"),
    ],
)
def test_what_contradicts_itself_is_named(llm: LLM, given: dict[str, Any], message: str | None) -> None:
    if message is None:
        llm.chat(MESSAGES, SamplingParams(max_tokens=1), **given)
        return
    with pytest.raises(InflightError, match=message) as error:
        llm.chat(MESSAGES, SamplingParams(max_tokens=1), **given)
    assert isinstance(error.value, RequestError) or "parser" in error.value.message
