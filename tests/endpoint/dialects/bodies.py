"""A good body of each route of the dialects, and what an error of each looks like."""

from __future__ import annotations

import json
from typing import Any

_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
_PARTS = [{"type": "text", "text": "fox", "cache_control": {"type": "ephemeral"}}]
_FUNCTION = {"name": "weather", "description": "Of a city.", "parameters": _SCHEMA}
GOOD: dict[str, dict[str, Any]] = {
    "/v1/messages": {
        "model": "tiny",
        "max_tokens": 2,
        "system": [{"type": "text", "text": "Be short."}],
        "messages": [
            {"role": "user", "content": _PARTS},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "x"}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "rain"}]},
        ],
        "tools": [{"name": "weather", "input_schema": _SCHEMA}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 3},
        "stop_sequences": ["x"],
        "temperature": 0.5,
        "top_k": 5,
        "metadata": {"user_id": "me"},
        "stream": False,
    },
    "/v1/messages/count_tokens": {"model": "tiny", "messages": [{"role": "user", "content": _PARTS}], "system": "x"},
    "/api/chat": {
        "model": "tiny",
        "messages": [
            {"role": "user", "content": "fox", "images": []},
            {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "x"}}}]},
            {"role": "tool", "content": "rain", "tool_name": "weather"},
        ],
        "tools": [{"type": "function", "function": _FUNCTION}],
        "options": {"num_predict": 2, "temperature": 0.5, "top_k": 5, "seed": 1, "stop": ["x"], "num_ctx": 4096},
        "format": "",
        "think": False,
        "keep_alive": "5m",
        "logprobs": True,
        "top_logprobs": 1,
        "stream": False,
    },
    "/api/generate": {
        "model": "tiny",
        "prompt": "fox",
        "system": "Be short.",
        "context": [40, 41],
        "raw": False,
        "options": {"num_predict": 2, "repeat_penalty": 1.1},
        "stream": False,
    },
    "/api/show": {"model": "tiny"},
    "/v1/responses": {
        "model": "tiny",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "fox"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "a", "name": "weather", "arguments": '{"city": "x"}'},
            {"type": "function_call_output", "call_id": "a", "output": "rain"},
        ],
        "instructions": "Be short.",
        "tools": [{"type": "function", **_FUNCTION}],
        "tool_choice": "auto",
        "max_output_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "text": {"format": {"type": "text"}},
        "metadata": {"a": "b"},
        "store": False,
        "stream": False,
    },
    "/generate": {
        "inputs": "fox",
        "parameters": {
            "max_new_tokens": 2,
            "do_sample": True,
            "temperature": 0.5,
            "top_k": 5,
            "top_p": 0.9,
            "typical_p": 0.9,
            "repetition_penalty": 1.1,
            "seed": 1,
            "stop": ["x"],
            "truncate": 9,
            "details": True,
            "decoder_input_details": True,
            "top_n_tokens": 1,
        },
    },
    "/generate_stream": {"inputs": "fox", "parameters": {"max_new_tokens": 2, "return_full_text": True}},
}
# What bodies may have beside it. What leaves the server busy is not among it.
NAMES = (
    "prompt",
    "suffix",
    "template",
    "images",
    "output_config",
    "truncation",
    "include",
    "best_of",
    "n",
    "max_tokens",
)


def is_error(path: str, content: bytes) -> bool:
    """Whether an answer is an error of the dialect that `path` is of, and says something."""
    found: Any = json.loads(content.decode())
    if path.startswith("/v1/messages"):
        error = found["error"]
        return set(found) == {"type", "error"} and set(error) == {"type", "message"} and bool(error["message"])
    if path.startswith("/api"):
        return set(found) == {"error"} and isinstance(found["error"], str) and bool(found["error"])
    if path in ("/", "/generate", "/generate_stream"):
        return set(found) == {"error", "error_type"} and bool(found["error"])
    return set(found["error"]) == {"message", "type", "param", "code"} and bool(found["error"]["message"])
