"""A response, whole or as the events of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

from inflight.triton_backend.dialects.blocks import Begun, Block, BlockEvent, Blocks, Grown
from inflight.triton_backend.dialects.responses.body import ResponsesBody
from inflight.triton_backend.dialects.responses.objects import (
    Logprobs,
    item_id,
    item_of,
    part_of,
    response_of,
    usage_of,
)
from inflight.triton_backend.dialects.turn import Turn
from inflight.triton_backend.openai.answers.logprobs import chat_logprobs
from inflight.triton_backend.openai.streaming import Event

# The names of a block's events: of more of it, and of its end.
_OF_PARTS = {"text": "response.output_text", "reasoning": "response.reasoning_text"}
_CALL = "response.function_call_arguments"


class ResponseAnswer:
    """One response in either of its shapes; `when_done` gets it when it has ended."""

    def __init__(self, turn: Turn, body: ResponsesBody, when_done: Callable[[dict[str, Any]], None]) -> None:
        self._turn = turn
        self._body = body
        self._when_done = when_done
        self._id = f"resp_{uuid.uuid4().hex}"
        self._blocks = Blocks()
        self._logprobs: dict[int, Logprobs] = {}
        # Of tokens whose text has not come yet.
        self._pending: Logprobs = []
        self.response = response_of(self._id, int(time.time()), body, turn)

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self.response

    async def events(self) -> AsyncGenerator[Event, None]:
        number = 0
        async with aclosing(self._events()) as events:
            async for event in events:
                yield {**event, "sequence_number": number}
                number += 1

    async def _events(self) -> AsyncGenerator[Event, None]:
        has_begun = False
        async with aclosing(self._turn.steps()) as steps:
            async for parts in steps:
                if not has_begun:
                    has_begun = True
                    yield {"type": "response.created", "response": dict(self.response)}
                    yield {"type": "response.in_progress", "response": dict(self.response)}
                news = self._new_logprobs()
                self._pending += news
                for event in self._blocks.push(parts):
                    if isinstance(event, Begun) and not self._begins_answer(event.block):
                        self._pending = list(news)
                    for each in self._block_events(event):
                        yield each
        for event in self._blocks.finish():
            for each in self._block_events(event):
                yield each
        self._end()
        yield {"type": f"response.{self.response['status']}", "response": self.response}

    @staticmethod
    def _begins_answer(block: Block) -> bool:
        """Whether it is text with nothing in front: blanks and bytes of a character that came before it are its own."""
        return block.index == 0 and block.kind == "text"

    def _end(self) -> None:
        blocks, is_cut_off = self._blocks.all, self._turn.is_cut_off
        status = "incomplete" if is_cut_off else "completed"
        self.response = {
            **self.response,
            "status": status,
            "completed_at": None if is_cut_off else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut_off else None,
            "output": [self._item(block) for block in blocks],
            "usage": usage_of(self._turn),
        }
        self._when_done(self.response)

    def _item(self, block: Block) -> dict[str, Any]:
        status = "incomplete" if self._turn.is_cut_off and not block.is_whole else "completed"
        return item_of(self._id, block, status, self._logprobs.get(block.index, []))

    def _new_logprobs(self) -> Logprobs:
        news = self._turn.last
        if not self._body.wants_logprobs or news is None:
            return []
        found: Logprobs = chat_logprobs(news.logprobs, self._body.top_logprobs or 0)["content"]
        return found

    def _block_events(self, event: BlockEvent) -> Iterator[Event]:
        block = event.block
        where = {"item_id": item_id(self._id, block), "output_index": block.index}
        if isinstance(event, Grown):
            yield self._delta(block, event.piece, where)
            return
        item = {"output_index": block.index}
        if isinstance(event, Begun):
            begun = item_of(self._id, block, "in_progress", [])
            yield {"type": "response.output_item.added", **item, "item": begun}
            if block.kind != "call":
                part = part_of(block, "", [])
                yield {"type": "response.content_part.added", **where, "content_index": 0, "part": part}
            return
        logprobs = self._logprobs.get(block.index, [])
        if block.kind == "call":
            yield {"type": f"{_CALL}.done", **where, "name": block.name, "arguments": block.text or "{}"}
        else:
            more = {"logprobs": logprobs} if block.kind == "text" else {}
            done = {"type": f"{_OF_PARTS[block.kind]}.done", **where, "content_index": 0, "text": block.text}
            yield done | more
            part = part_of(block, block.text, logprobs)
            yield {"type": "response.content_part.done", **where, "content_index": 0, "part": part}
        yield {"type": "response.output_item.done", **item, "item": self._item(block)}

    def _delta(self, block: Block, piece: str, where: dict[str, Any]) -> Event:
        if block.kind == "call":
            return {"type": f"{_CALL}.delta", **where, "delta": piece}
        delta = {"type": f"{_OF_PARTS[block.kind]}.delta", **where, "content_index": 0, "delta": piece}
        if block.kind != "text":
            return delta
        logprobs, self._pending = self._pending, []
        self._logprobs.setdefault(block.index, []).extend(logprobs)
        return delta | {"logprobs": logprobs}
