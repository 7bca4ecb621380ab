"""LlamaIndex's OpenAILike."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

from tests.endpoint.conftest import MODEL
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


def model(shim: str, is_chat_model: bool) -> Any:
    return OpenAILike(
        model=MODEL,
        api_base=f"{shim}/v1",
        api_key="none",
        is_chat_model=is_chat_model,
        max_tokens=9,
        max_retries=0,
        timeout=PATIENCE_S,
        temperature=0,
    )


def test_complete_whole_and_streamed(shim: str) -> None:
    for is_chat_model in (False, True):
        llm = model(shim, is_chat_model)
        text = llm.complete("fox").text
        assert "".join(part.delta or "" for part in llm.stream_complete("fox")) == text


def test_chat_whole_streamed_and_going_on(shim: str) -> None:
    llm = model(shim, True)
    messages = [ChatMessage(role="user", content="fox")]
    answer = llm.chat(messages)
    assert "".join(part.delta or "" for part in llm.stream_chat(messages)) == answer.message.content
    messages += [answer.message, ChatMessage(role="user", content="and then?")]
    assert llm.chat(messages).message.role.value == "assistant"


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=12)
    days: int = Field(ge=1, le=14)


def tool_model(tool_shim: str) -> Any:
    return OpenAILike(
        model=MODEL,
        api_base=f"{tool_shim}/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=3000,
        max_retries=0,
        timeout=PATIENCE_S,
    )


def test_structured_predict(tool_shim: str) -> None:
    prompt = PromptTemplate("The weather of {place}?")
    assert isinstance(tool_model(tool_shim).structured_predict(Weather, prompt, place="fox"), Weather)


def test_tools_are_called_and_the_conversation_goes_on(tool_shim: str) -> None:
    llm = tool_model(tool_shim)

    def weather(city: str, days: int) -> str:
        """The weather of a city."""
        return f"{city} {days}"

    tool = FunctionTool.from_defaults(fn=weather)
    asked: dict[str, Any] = {"tool_required": True, "allow_parallel_tool_calls": False}
    answer = llm.chat_with_tools([tool], user_msg="fox", **asked)
    (call,) = llm.get_tool_calls_from_response(answer)
    assert call.tool_name == "weather" and tool(**call.tool_kwargs).raw_output
    result = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": call.tool_id})
    history = [ChatMessage(role="user", content="fox"), answer.message, result]
    assert llm.get_tool_calls_from_response(llm.chat_with_tools([tool], chat_history=history, **asked))
