"""An answer as one object, or as lines of JSON of which the last has the figures."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Any

from inflight.triton_backend.dialects.blocks import Block, BlockEvent, Blocks, Ended, Grown
from inflight.triton_backend.dialects.ollama.errors import ollama_error
from inflight.triton_backend.dialects.turn import Turn
from inflight.triton_backend.openai.answers.json_answer import json_bytes
from inflight.triton_backend.openai.answers.logprobs import chat_logprobs
from inflight.triton_backend.openai.errors import Problem
from inflight.triton_backend.openai.streaming import Event, Framing


def _line(event: Event) -> bytes:
    return json_bytes(event) + b"\n"


def _error_line(problem: Problem) -> bytes:
    return _line(ollama_error(problem)[1])


FRAMING = Framing("application/x-ndjson", _line, _error_line)


def timestamp(seconds: float | None = None) -> str:
    """As clients parse it; now, unless `seconds` of Unix time are given."""
    moment = datetime.now(timezone.utc) if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")


class OllamaAnswer:
    """One answer in either of its two shapes. `is_chat`: it is a message, with calls; else `response` is its text, and
    `context` the tokens so far if `has_context`."""

    def __init__(self, turn: Turn, *, is_chat: bool, has_context: bool = False) -> None:
        self._turn = turn
        self._is_chat = is_chat
        self._has_context = has_context
        self._blocks = Blocks()
        self._ids: list[int] = []
        self._started = time.monotonic_ns()
        self._first: int | None = None

    async def whole(self) -> dict[str, Any]:
        text: list[str] = []
        thinking: list[str] = []
        calls: list[dict[str, Any]] = []
        logprobs: list[dict[str, Any]] = []
        last: dict[str, Any] = {}
        async with aclosing(self.events()) as events:
            async for event in events:
                said = event["message"] if self._is_chat else event
                text.append(said["content" if self._is_chat else "response"])
                thinking.append(said.get("thinking", ""))
                calls += said.get("tool_calls", ())
                logprobs += event.get("logprobs", ())
                last = event
        found = self._said("".join(text), "".join(thinking), calls)
        return {**last, **found, **({"logprobs": logprobs} if logprobs else {})}

    async def events(self) -> AsyncGenerator[Event, None]:
        async with aclosing(self._turn.steps()) as steps:
            async for parts in steps:
                delta = self._turn.last
                assert delta is not None
                if self._first is None:
                    self._first = time.monotonic_ns()
                self._ids += delta.token_ids
                shown = [piece for event in self._blocks.push(parts) for piece in self._pieces(event)]
                more = {"logprobs": chat_logprobs(delta.logprobs, 1 << 30)["content"]} if delta.logprobs else {}
                if not shown and more:
                    shown = [self._said()]
                for number, piece in enumerate(shown):
                    yield self._stamped() | piece | {"done": False} | ({} if number else more)
        for event in self._blocks.finish():
            for piece in self._pieces(event):
                yield self._stamped() | piece | {"done": False}
        yield self._stamped() | self._said() | self._ending()

    def _pieces(self, event: BlockEvent) -> list[dict[str, Any]]:
        """Text and thinking as they come, a call when it is whole. One that was cut off is left out: it would be run
        with half of its arguments."""
        block = event.block
        if isinstance(event, Grown) and block.kind != "call":
            return [self._said(event.piece) if block.kind == "text" else self._said(thinking=event.piece)]
        if isinstance(event, Ended) and block.kind == "call" and not self._is_half(block):
            return [self._said(calls=[{"function": {"name": block.name, "arguments": block.arguments()}}])]
        return []

    def _is_half(self, block: Block) -> bool:
        try:
            json.loads(block.text or "{}")
        except ValueError:
            return self._turn.is_cut_off
        return False

    def _said(self, text: str = "", thinking: str = "", calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        more: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if calls:
            more["tool_calls"] = calls
        if self._is_chat:
            return {"message": {"role": "assistant", "content": text, **more}}
        return {"response": text, **more}

    def _stamped(self) -> dict[str, Any]:
        return {"model": self._turn.body.model or self._turn.service.model_name, "created_at": timestamp()}

    def _ending(self) -> dict[str, Any]:
        """Durations are in nanoseconds. What waits in the queue counts as evaluating the prompt."""
        turn, now = self._turn, time.monotonic_ns()
        first = self._first or now
        context = [*turn.generation.request.prompt_token_ids, *self._ids]
        return {
            "done": True,
            "done_reason": "length" if turn.is_cut_off else "stop",
            **({"context": context} if self._has_context else {}),
            "total_duration": now - self._started,
            "load_duration": 0,
            "prompt_eval_count": turn.prompt_tokens,
            "prompt_eval_duration": first - self._started,
            "eval_count": turn.usage.completion_tokens,
            "eval_duration": now - first,
        }
