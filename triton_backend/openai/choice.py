"""One completion while it is collected for an answer that is not streamed, and the usage of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inflight.runtime.request.deltas import FinishReason
from inflight.runtime.text.completion import CompletionDelta, TokenLogprob
from inflight.triton_backend.openai.service import Generation, Service


@dataclass(slots=True)
class Choice:
    """Text and tokens of one sequence. `stop_reason` is vLLM's: the stop string or stop token id, if one ended it."""

    index: int
    text: str = ""
    num_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def add(self, delta: CompletionDelta) -> None:
        self.text += delta.text
        self.num_tokens += len(delta.token_ids)
        self.logprobs += delta.logprobs
        self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason


@dataclass(slots=True)
class Usage:
    """Tokens of a request; with several prompts or choices, of all of them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


async def collect(service: Service, generation: Generation, usage: Usage) -> list[Choice]:
    """Run `generation` to its end: the best n of its sequences, and its tokens added to `usage`."""
    request = generation.request
    choices = [Choice(index) for index in range(request.num_sequences)]
    async for delta in service.run(generation):
        choices[delta.index].add(delta)
    usage.prompt_tokens += len(request.prompt_token_ids)
    usage.completion_tokens += sum(choice.num_tokens for choice in choices)
    return _best(choices, generation, request.params.n)


def _best(choices: Sequence[Choice], generation: Generation, n: int) -> list[Choice]:
    """The n most likely, most likely first, when more were computed."""
    if len(choices) == n:
        return list(choices)
    sums = generation.cumulative_logprobs
    return sorted(choices, key=lambda choice: (-sums.get(choice.index, 0.0), choice.index))[:n]
