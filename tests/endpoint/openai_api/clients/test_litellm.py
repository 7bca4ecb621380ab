"""litellm, as for any OpenAI-compatible server."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from tests.endpoint.conftest import MODEL
from tests.endpoint.tools.definitions import TOOLS, parameters_of
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.endpoint


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_completion_whole_and_streamed(shim: str, provider: str) -> None:
    import litellm  # Once the environment is set that keeps it from calling home.

    asked: dict[str, Any] = {
        "model": f"{provider}/{MODEL}",
        "api_base": f"{shim}/v1",
        "api_key": "none",
        "max_tokens": 9,
        "seed": 5,
        "timeout": PATIENCE_S,
        "num_retries": 0,
    }
    messages: list[Any] = [{"role": "user", "content": "fox"}]
    answer = litellm.completion(messages=messages, **asked)
    text = answer.choices[0].message.content
    chunks = list(litellm.completion(messages=messages, stream=True, **asked))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    messages += [answer.choices[0].message, {"role": "user", "content": "and then?"}]
    assert litellm.completion(messages=messages, **asked).usage.completion_tokens > 0


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_tools_whole_streamed_and_going_on(tool_shim: str, provider: str) -> None:
    import litellm

    asked: dict[str, Any] = {
        "model": f"{provider}/{MODEL}",
        "api_base": f"{tool_shim}/v1",
        "api_key": "none",
        "max_tokens": 3000,
        "seed": 5,
        "timeout": PATIENCE_S,
        "num_retries": 0,
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }
    messages: list[Any] = [{"role": "user", "content": "fox"}]
    answer = litellm.completion(messages=messages, **asked).choices[0].message
    (call,) = answer.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), parameters_of(call.function.name))
    chunks = list(litellm.completion(messages=messages, stream=True, **asked))
    whole = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0].function
    assert (whole.name, whole.arguments) == (call.function.name, call.function.arguments)
    messages += [answer, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    assert litellm.completion(messages=messages, **asked).choices[0].message.tool_calls
