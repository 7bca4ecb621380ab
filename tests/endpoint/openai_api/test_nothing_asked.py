"""What the server wrote it reads, and a value that asks for nothing is never an error."""

from __future__ import annotations

import json
import typing
from typing import Any

import openai
import pytest
from openai.types import chat as openai_chat
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming

from tests.endpoint.conftest import MODEL
from tests.endpoint.openai_api.test_openai_api import post

pytestmark = pytest.mark.endpoint

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "fox"}], "max_tokens": 2}
COMPLETION: dict[str, Any] = {"prompt": "fox", "max_tokens": 2}
REQUIRED = {"messages", "prompt", "role", "type", "text"}

# The keys of vLLM's bodies beside OpenAI's, each with its default there, which asks for nothing.
VLLM_DEFAULTS: dict[str, list[Any]] = {
    "use_beam_search": [False],
    "top_k": [0, -1],
    "min_p": [0, 0.0],
    "repetition_penalty": [1, 1.0],
    "watermarking": [False],
    "length_penalty": [1.0, 1],
    "stop_token_ids": [[]],
    "include_stop_str_in_output": [False],
    "ignore_eos": [False],
    "min_tokens": [0],
    "skip_special_tokens": [True],
    "spaces_between_special_tokens": [True],
    "truncate_prompt_tokens": [],
    "truncation_side": ["left"],
    "prompt_logprobs": [],
    "logprob_token_ids": [[]],
    "allowed_token_ids": [[]],
    "bad_words": [[]],
    "echo": [False],
    "add_special_tokens": [True, False],
    "structured_outputs": [{}, {"json": None, "json_object": False}],
    "guided_choice": [[]],
    "priority": [0],
    "request_id": ["my own"],
    "session_id": ["mine"],
    "return_tokens_as_token_ids": [False],
    "return_token_ids": [False],
    "return_token_offsets": [False],
    "return_mm_kwargs": [True],
    "routed_experts_prompt_start": [0],
    "cache_salt": [""],
    "kv_transfer_params": [{}],
    "ec_transfer_params": [{}],
    "vllm_xargs": [{}],
    "repetition_detection": [{}],
    "thinking_token_budget": [-1],
    "stream_interval": [1],
    "logits_processors": [[]],
    "guided_json": [{}],
    "response_format": [{}, {"type": "text"}],
    "stop": ["", [], [""]],
    "stream_options": [
        {},
        *(
            {"include_usage": False, "continuous_usage_stats": False, "include_obfuscation": each}
            for each in (False, True)
        ),
    ],
    "logit_bias": [{}],
}
CHAT_DEFAULTS: dict[str, list[Any]] = {
    "include_reasoning": [True],
    "add_generation_prompt": [True],
    "continue_final_message": [False],
    "documents": [[]],
    "chat_template": [""],
    "chat_template_kwargs": [{}],
    "media_io_kwargs": [{}],
    "mm_processor_kwargs": [{}],
    "return_prompt_text": [False],
    "tools": [[]],
    "functions": [[]],
    "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"],
    "parallel_tool_calls": [True, False],
    "top_logprobs": [0],
    "logprobs": [False],
    "modalities": [[], ["text"]],
    "metadata": [{}],
    "service_tier": ["auto", "default"],
    "audio": [{}],
}


def keys(params: Any) -> list[str]:
    """The keys that a request may leave out or set to null, as the installed package has them."""
    return sorted(set(typing.get_type_hints(params)) - REQUIRED)


def accepted(shim: str, path: str, body: dict[str, Any]) -> Any:
    status, answer = post(shim, path, json.dumps(body).encode())
    assert status == 200, (body, answer)
    return answer


def test_null_is_not_given_for_every_key_of_the_openai_package(embedded_shim: str) -> None:
    for key in keys(chat_params.CompletionCreateParamsNonStreaming):
        accepted(embedded_shim, "/v1/chat/completions", CHAT | ({key: None} if key != "max_tokens" else {}))
    for key in keys(CompletionCreateParamsNonStreaming):
        accepted(embedded_shim, "/v1/completions", {**COMPLETION, key: None})


def test_null_and_the_defaults_ask_for_nothing_for_every_key_of_vllm(embedded_shim: str) -> None:
    completion: dict[str, list[Any]] = {"suffix": [""], "best_of": [1], "logprobs": [], "prompt_embeds": [""]}
    for path, body, more in (
        ("/v1/chat/completions", CHAT, CHAT_DEFAULTS),
        ("/v1/completions", COMPLETION, completion),
    ):
        for key, values in (VLLM_DEFAULTS | more).items():
            for value in (None, *values):
                accepted(embedded_shim, path, {**body, key: value})


def test_null_and_empty_values_ask_for_nothing_in_messages_and_their_parts(embedded_shim: str) -> None:
    kinds = [getattr(openai_chat, name) for name in dir(openai_chat) if name.endswith("MessageParam")]
    found = {key for kind in kinds if hasattr(kind, "__required_keys__") for key in keys(kind)}
    found |= set(openai_chat.ChatCompletionMessage.model_fields) - REQUIRED
    assert {"refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id"} <= found
    for key in found | {"reasoning", "reasoning_content", "thinking"}:
        message: dict[str, Any] = {"role": "assistant", "content": "a fox", key: None}
        accepted(embedded_shim, "/v1/chat/completions", CHAT | {"messages": [*CHAT["messages"], message]})
    for key in keys(openai_chat.ChatCompletionContentPartTextParam):
        part = {"type": "text", "text": "fox", key: None}
        accepted(embedded_shim, "/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": [part]}]})
    empty: dict[str, Any] = {
        "tool_calls": [],
        "annotations": [],
        "audio": {},
        "function_call": {},
        "refusal": "",
        "name": "",
    }
    message = {"role": "assistant", "content": [], **empty}
    accepted(embedded_shim, "/v1/chat/completions", CHAT | {"messages": [*CHAT["messages"], message]})


def test_a_conversation_in_the_packages_own_idiom_goes_on(shim: str) -> None:
    with openai.OpenAI(base_url=f"{shim}/v1", api_key="none", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": "fox"}]
        for turn in range(3):
            answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=3, seed=turn)
            message = answer.choices[0].message
            whole = message.model_dump()
            messages += [message if turn % 2 else whole, {"role": "user", "content": f"and then {turn}?"}]
        plain = [m if isinstance(m, dict) else {"role": m.role, "content": m.content} for m in messages]
        plain = [{"role": m["role"], "content": m["content"]} for m in plain]
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 5, "seed": 1}
        again = [client.chat.completions.create(messages=each, **asked) for each in (messages, plain)]
        assert again[0].choices[0].message.content == again[1].choices[0].message.content


def test_a_refusal_and_parts_of_text_are_what_the_model_reads(embedded_shim: str) -> None:
    def tokens(message: dict[str, Any]) -> Any:
        return accepted(embedded_shim, "/tokenize", {"messages": [message]})["tokens"]

    plain = tokens({"role": "assistant", "content": "I will not."})
    assert tokens({"role": "assistant", "content": None, "refusal": "I will not."}) == plain
    parts = [{"type": "refusal", "refusal": "I will"}, {"type": "text", "text": " not."}]
    assert tokens({"role": "assistant", "content": parts, "annotations": [{"type": "url_citation"}]}) == plain


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"web_search_options": {}}, "web_search_options", "web search"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type", "no functions"),
        ({"functions": [{"name": "f"}]}, "functions", "give them as tools"),
        ({"function_call": {"name": "f"}}, "function_call", "give them as tools"),
        ({"audio": {"voice": "alloy"}}, "audio", "audio"),
        ({"structural_tag": "{}"}, "structural_tag", "needs triggers"),
        ({"use_beam_search": True}, "use_beam_search", "beam search in chats"),
        ({"length_penalty": 0.5}, "length_penalty", "beam search in chats"),
        ({"spaces_between_special_tokens": False}, "spaces_between_special_tokens", "spaces"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
            "messages.0.function_call",
            "give them as tool_calls",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type", "images"),
        ({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}, "messages.0.content.0.type", "'text'"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0", "needs 'content'"),
        ({"messages": [{"role": "system"}]}, "messages.0", "needs 'content'"),
        ({"response_format": {"type": "structural_tag"}}, "response_format", "needs triggers"),
        ({"response_format": {"type": "structural_tag", "value": {}}}, "response_format.value", "does not read"),
        ({"response_format": {"type": "text", "value": "x"}}, "response_format.value", "does not read"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"schema": {}}}},
            "response_format.json_schema",
            "does not read",
        ),
        ({"response_format": {"type": "regex", "triggers": ["x"]}}, "response_format.triggers", "does not read"),
        (
            {"response_format": {"type": "json", "json_schema": {"schema": {}}, "value": {}}},
            "response_format.value",
            "give one of them",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format", "has none"),
        ({"response_format": {"type": "verse"}}, "response_format.type", "'text'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0", "needs 'text'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "a string or a list"),
    ],
)
def test_what_asks_for_something_that_is_not_there_is_refused_with_the_reason(
    embedded_shim: str, change: dict[str, Any], param: str, words: str
) -> None:
    status, answer = post(embedded_shim, "/v1/chat/completions", json.dumps(CHAT | change).encode())
    assert (status, answer["error"]["param"]) == (400, param), answer
    assert words in answer["error"]["message"]
