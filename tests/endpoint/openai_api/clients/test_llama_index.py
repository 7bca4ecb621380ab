"""LlamaIndex's OpenAILike."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.llms.openai_like import OpenAILike

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
