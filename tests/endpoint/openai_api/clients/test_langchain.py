"""LangChain's ChatOpenAI and OpenAI."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field, SecretStr

from tests.endpoint.conftest import MODEL

pytestmark = pytest.mark.endpoint

NOBODY = SecretStr("none")


def chat(shim: str, **more: Any) -> Any:
    return ChatOpenAI(
        base_url=f"{shim}/v1", api_key=NOBODY, model=MODEL, max_retries=0, seed=3, max_completion_tokens=9, **more
    )


def test_invoke_stream_and_batch_give_the_same_text(shim: str) -> None:
    model = chat(shim)
    answer = model.invoke("fox")
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in model.stream("fox")) == answer.content
    assert [each.content for each in model.batch(["fox", "fox"])] == [answer.content] * 2


def test_a_conversation_goes_on(shim: str) -> None:
    model = chat(shim, temperature=0)
    messages: list[Any] = [SystemMessage("Be brief."), HumanMessage("fox")]
    for _ in range(2):
        answer = model.invoke(messages)
        assert isinstance(answer, AIMessage)
        messages += [answer, HumanMessage("and then?")]


def test_streams_count_their_tokens(shim: str) -> None:
    chunks = list(chat(shim, stream_usage=True).stream("fox"))
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) > 0


def test_completions(shim: str) -> None:
    model: Any = OpenAI(base_url=f"{shim}/v1", api_key=NOBODY, model=MODEL, max_tokens=9, seed=3, max_retries=0)
    assert "".join(model.stream("fox")) == model.invoke("fox")


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=14)


def tool_chat(tool_shim: str) -> Any:
    return ChatOpenAI(
        base_url=f"{tool_shim}/v1",
        api_key=NOBODY,
        model=MODEL,
        max_retries=0,
        seed=3,
        max_completion_tokens=3000,
    )


def test_bound_tools_are_called_and_the_conversation_goes_on(tool_shim: str) -> None:
    model = tool_chat(tool_shim).bind_tools([Weather], tool_choice="required", parallel_tool_calls=False)
    answer = model.invoke("fox")
    (call,) = answer.tool_calls
    assert call["name"] == "Weather" and Weather(**call["args"]) and not answer.invalid_tool_calls
    whole: Any = None
    for chunk in model.stream("fox"):
        whole = chunk if whole is None else whole + chunk
    assert [(each["name"], each["args"]) for each in whole.tool_calls] == [("Weather", call["args"])]
    messages: list[Any] = [HumanMessage("fox"), answer, ToolMessage("sunny", tool_call_id=call["id"])]
    assert model.invoke(messages).tool_calls


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output(tool_shim: str, method: Any) -> None:
    assert isinstance(tool_chat(tool_shim).with_structured_output(Weather, method=method).invoke("fox"), Weather)
