"""The choices of an answer that is not streamed, and the usage of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inflight.runtime.request.accumulator import best_of
from inflight.runtime.text.completion import Completion
from inflight.triton_backend.openai.service import Generation, Service

_NOTHING_ELSE = dict.fromkeys(("audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"), 0)


@dataclass(slots=True)
class Usage:
    """Tokens of a request; with several prompts or choices, of all of them."""

    generations: Sequence[Generation]
    completion_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        """`cached_tokens` are those of the prompt whose keys and values were in the prefix cache."""
        prompt_tokens = sum(len(each.request.prompt_token_ids) for each in self.generations)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": sum(each.cached_tokens for each in self.generations),
                "audio_tokens": 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": sum(each.reasoning.total for each in self.generations if each.reasoning),
                **_NOTHING_ELSE,
            },
        }


async def collect(service: Service, generation: Generation, usage: Usage) -> list[Completion]:
    """Run `generation` to its end: the best n of its sequences, and its tokens added to `usage`."""
    request = generation.request
    completions = [Completion(index) for index in range(request.num_sequences)]
    async for delta in service.run(generation):
        completions[delta.index].add(delta)
    usage.completion_tokens += sum(len(completion.token_ids) for completion in completions)
    return best_of(completions, request.params.n)
