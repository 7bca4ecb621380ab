"""A response, its items and their parts, as the API shows them."""

from __future__ import annotations

from typing import Any

from inflight.triton_backend.dialects.blocks import Block
from inflight.triton_backend.dialects.responses.body import ResponsesBody, ToolChoice
from inflight.triton_backend.dialects.turn import Turn

Logprobs = list[dict[str, Any]]

_PREFIXES = {"reasoning": "rs", "text": "msg", "call": "fc"}


def item_id(response_id: str, block: Block) -> str:
    return f"{_PREFIXES[block.kind]}_{response_id.partition('_')[2]}_{block.index}"


def part_of(block: Block, text: str, logprobs: Logprobs) -> dict[str, Any]:
    """The only part of a message or of reasoning."""
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def item_of(response_id: str, block: Block, status: str, logprobs: Logprobs) -> dict[str, Any]:
    """The item that a block is; one that is in progress has no content yet."""
    own: dict[str, Any]
    has_begun = status != "in_progress"
    content = [part_of(block, block.text, logprobs)] if has_begun else []
    if block.kind == "reasoning":
        own = {"type": "reasoning", "summary": [], "content": content, "encrypted_content": None}
    elif block.kind == "text":
        own = {"type": "message", "role": "assistant", "content": content}
    else:
        arguments = (block.text or "{}") if has_begun else ""
        own = {"type": "function_call", "call_id": block.call_id, "name": block.name, "arguments": arguments}
    return {"id": item_id(response_id, block), **own, "status": status}


def response_of(response_id: str, created_at: int, body: ResponsesBody, turn: Turn) -> dict[str, Any]:
    """A response that has just begun."""
    params = turn.generation.request.params
    choice = body.tool_choice
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": body.background,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "model": turn.service.model_name,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None if body.reasoning is None else body.reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": body.store,
        "temperature": params.temperature,
        "text": {"format": _format(body), **_given(verbosity=body.text.verbosity)},
        "tool_choice": choice.model_dump(exclude_none=True) if isinstance(choice, ToolChoice) else choice or "auto",
        "tools": [_tool(each.model_dump(exclude_none=True)) for each in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": body.truncation,
        "usage": None,
        "user": body.user,
        "metadata": body.metadata or {},
    }


def usage_of(turn: Turn) -> dict[str, Any]:
    usage = turn.usage.as_dict()
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage["total_tokens"],
    }


def _format(body: ResponsesBody) -> dict[str, Any]:
    return body.text.format.model_dump(exclude_none=True, by_alias=True)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": {"type": "object", "properties": {}}, "strict": False, **tool}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
