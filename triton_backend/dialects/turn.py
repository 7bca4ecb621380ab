"""One answer of a chat, as the dialects that have one choice read it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from inflight.runtime.text.completion import CompletionDelta
from inflight.runtime.text.parsers.answer import AnswerParts
from inflight.runtime.text.parsers.parts import Part, Reasoning
from inflight.triton_backend.openai.answers.choice import Usage
from inflight.triton_backend.openai.protocol.chat import ChatBody
from inflight.triton_backend.openai.service import Generation, Service


class Turn:
    """The parts of the only choice of `generation` as they come; `last` is the newest delta, the one with the finish
    reason when all have come."""

    def __init__(self, service: Service, body: ChatBody, generation: Generation) -> None:
        self.service = service
        self.body = body
        self.generation = generation
        self.usage = Usage([generation])
        self.last: CompletionDelta | None = None
        self._parts = AnswerParts(generation.form, service.tokenizer, generation.request.params.skip_special_tokens)

    @property
    def prompt_tokens(self) -> int:
        return len(self.generation.request.prompt_token_ids)

    @property
    def num_calls(self) -> int:
        """Calls of tools so far."""
        return self._parts.num_calls

    @property
    def has_calls(self) -> bool:
        """Whether the answer ended by itself and calls tools."""
        return self.last is not None and self.last.finish_reason == "stop" and self.num_calls > 0

    @property
    def is_cut_off(self) -> bool:
        """Whether it ended at its longest."""
        return self.last is not None and self.last.finish_reason == "length"

    @property
    def is_shortened(self) -> bool:
        """Whether its longest was the end of the context, before as many tokens as were asked for."""
        return self.body.max_tokens not in (None, self.generation.request.params.max_tokens)

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended it."""
        reason = None if self.last is None else self.last.stop_reason
        return reason if isinstance(reason, str) else None

    async def steps(self) -> AsyncGenerator[list[Part], None]:
        """The parts that each delta completes, perhaps none. Closing it early cancels the request."""
        async with aclosing(self.service.run(self.generation)) as deltas:
            async for delta in deltas:
                self.last = delta
                self.usage.completion_tokens += len(delta.token_ids)
                parts = self._parts.push(delta)
                shows = self.body.include_reasoning
                yield parts if shows else [part for part in parts if not isinstance(part, Reasoning)]
