"""An answer as a message, or as the events of one."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from inflight.triton_backend.dialects.anthropic.errors import anthropic_error
from inflight.triton_backend.dialects.blocks import Begun, Block, BlockEvent, Blocks, Grown
from inflight.triton_backend.dialects.turn import Turn
from inflight.triton_backend.openai.errors import Problem
from inflight.triton_backend.openai.streaming import SERVER_SENT, Event, Framing, event_lines


def _error_lines(problem: Problem) -> bytes:
    return event_lines(anthropic_error(problem)[1])


FRAMING = Framing(SERVER_SENT, event_lines, _error_lines)


class MessageAnswer:
    """One answer in either of its two shapes; `omits`: thinking is shown without its text."""

    def __init__(self, turn: Turn, omits_thinking: bool) -> None:
        self._turn = turn
        self._omits_thinking = omits_thinking
        self._blocks = Blocks()
        self._id = f"msg_{uuid.uuid4().hex}"

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self._turn.steps()) as steps:
            async for parts in steps:
                for _ in self._blocks.push(parts):
                    pass
        for _ in self._blocks.finish():
            pass
        content = [self._whole_block(block) for block in self._blocks.all]
        return self._message(content) | self._ending() | {"usage": self._usage()}

    async def events(self) -> AsyncGenerator[Event, None]:
        """message_start, per block its start, deltas and stop, then message_delta with the usage, and message_stop."""
        is_first = True
        async with aclosing(self._turn.steps()) as steps:
            async for parts in steps:
                if is_first:
                    is_first = False
                    start = {"stop_reason": None, "stop_sequence": None, "usage": self._usage()}
                    yield {"type": "message_start", "message": self._message([]) | start}
                    yield {"type": "ping"}
                for event in self._blocks.push(parts):
                    for each in self._block_events(event):
                        yield each
        for event in self._blocks.finish():
            for each in self._block_events(event):
                yield each
        yield {"type": "message_delta", "delta": self._ending(), "usage": self._usage()}
        yield {"type": "message_stop"}

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._turn.service.model_name,
            "content": content,
        }

    def _ending(self) -> dict[str, Any]:
        turn = self._turn
        if turn.has_calls:
            reason = "tool_use"
        elif turn.stop_string is not None:
            reason = "stop_sequence"
        elif turn.is_cut_off:
            reason = "model_context_window_exceeded" if turn.is_shortened else "max_tokens"
        else:
            reason = "end_turn"
        return {"stop_reason": reason, "stop_sequence": turn.stop_string if reason == "stop_sequence" else None}

    def _usage(self) -> dict[str, Any]:
        """`input_tokens` are those that were computed: what the prefix cache had is counted apart."""
        cached = self._turn.generation.cached_tokens
        usage: dict[str, Any] = {
            "input_tokens": self._turn.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self._turn.usage.completion_tokens,
        }
        if self._turn.generation.reasoning is not None:
            usage["output_tokens_details"] = {"thinking_tokens": self._turn.generation.reasoning.total}
        return usage

    def _whole_block(self, block: Block) -> dict[str, Any]:
        if block.kind == "reasoning":
            return {"type": "thinking", "thinking": self._thinking(block.text), "signature": _signature(block.text)}
        if block.kind == "text":
            return {"type": "text", "text": block.text, "citations": None}
        return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": block.arguments()}

    def _block_events(self, event: BlockEvent) -> list[Event]:
        block = event.block
        if isinstance(event, Begun):
            empty: dict[str, dict[str, Any]] = {
                "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
                "text": {"type": "text", "text": "", "citations": None},
                "call": {"type": "tool_use", "id": block.call_id, "name": block.name, "input": {}},
            }
            return [{"type": "content_block_start", "index": block.index, "content_block": empty[block.kind]}]
        if isinstance(event, Grown):
            deltas: dict[str, dict[str, Any]] = {
                "reasoning": {"type": "thinking_delta", "thinking": event.piece},
                "text": {"type": "text_delta", "text": event.piece},
                "call": {"type": "input_json_delta", "partial_json": event.piece},
            }
            is_shown = block.kind != "reasoning" or not self._omits_thinking
            return [_delta(block, deltas[block.kind])] if is_shown else []
        stop = {"type": "content_block_stop", "index": block.index}
        if block.kind == "reasoning":
            return [_delta(block, {"type": "signature_delta", "signature": _signature(block.text)}), stop]
        return [stop]

    def _thinking(self, text: str) -> str:
        return "" if self._omits_thinking else text


def _delta(block: Block, delta: dict[str, Any]) -> Event:
    return {"type": "content_block_delta", "index": block.index, "delta": delta}


def _signature(thinking: str) -> str:
    """Clients want one, and send it back with the thinking; nothing is verified by it here."""
    return base64.b64encode(hashlib.sha256(thinking.encode(errors="replace")).digest()).decode()
