"""The choices of an answer that is not streamed, and the usage of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inflight.runtime.request.accumulator import best_of
from inflight.runtime.text.completion import Completion
from inflight.triton_backend.openai.service import Generation, Service


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


async def collect(service: Service, generation: Generation, usage: Usage) -> list[Completion]:
    """Run `generation` to its end: the best n of its sequences, and its tokens added to `usage`."""
    request = generation.request
    completions = [Completion(index) for index in range(request.num_sequences)]
    async for delta in service.run(generation):
        completions[delta.index].add(delta)
    usage.prompt_tokens += len(request.prompt_token_ids)
    usage.completion_tokens += sum(len(completion.token_ids) for completion in completions)
    return best_of(completions, request.params.n)
