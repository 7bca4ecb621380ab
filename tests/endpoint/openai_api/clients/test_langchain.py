"""LangChain's ChatOpenAI and OpenAI."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

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
