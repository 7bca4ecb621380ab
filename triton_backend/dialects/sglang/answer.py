"""An answer in SGLang's shape: the text so far, its tokens, and what is known of it."""

from __future__ import annotations

from asyncio import gather
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from inflight.runtime.text.completion import Completion, TokenLogprob, spell_logprob
from inflight.triton_backend.dialects.sglang.body import SglangBody
from inflight.triton_backend.openai.answers.choice import Usage, collect
from inflight.triton_backend.openai.service import Generation, Service
from inflight.triton_backend.openai.streaming import Event


class SglangAnswer:
    """One answer in either of its two shapes."""

    def __init__(self, service: Service, body: SglangBody, generations: Sequence[Generation]) -> None:
        self._service = service
        self._body = body
        self._generations = generations

    async def whole(self) -> Any:
        """An object for one prompt, a list for several and for n above 1."""
        usage = Usage(self._generations)
        found = await gather(*(collect(self._service, each, usage) for each in self._generations))
        shown = [
            self._shown(generation, completion)
            for generation, completions in zip(self._generations, found, strict=True)
            for completion in completions
        ]
        return shown[0] if self._body.is_one(len(shown)) else shown

    async def events(self) -> AsyncGenerator[Event, None]:
        """Each has the whole text so far."""
        (generation,) = self._generations
        completion = Completion(0)
        async with aclosing(self._service.run(generation)) as deltas:
            async for delta in deltas:
                completion.add(delta)
                yield self._shown(generation, completion)

    def _shown(self, generation: Generation, completion: Completion) -> dict[str, Any]:
        prompt = generation.request.prompt_token_ids
        meta: dict[str, Any] = {
            "id": self._body.rid or generation.request.request_id,
            "finish_reason": _finish_reason(completion),
            "prompt_tokens": len(prompt),
            "completion_tokens": len(completion.token_ids),
            "cached_tokens": generation.cached_tokens,
        }
        if self._body.return_logprob:
            meta["output_token_logprobs"] = [self._token(entry) for entry in completion.logprobs]
            if self._body.top_logprobs_num:
                meta["output_top_logprobs"] = [[self._token(top) for top in each.top] for each in completion.logprobs]
        if self._body.scores_prompt:
            meta["input_token_logprobs"] = self._prompt(generation)
        return {"text": completion.text, "output_ids": list(completion.token_ids), "meta_info": meta}

    def _token(self, entry: Any) -> list[Any]:
        """A TokenLogprob, or one of its likeliest."""
        return [entry.logprob, entry.token_id, self._text(entry.token_id)]

    def _text(self, token_id: int) -> str | None:
        return self._service.tokenizer.token_text(token_id) if self._body.return_text_in_logprobs else None

    def _prompt(self, generation: Generation) -> list[list[Any]]:
        """The tokens from logprob_start_len on; the very first has no probability."""
        ids = generation.request.prompt_token_ids
        results = generation.prompt_logprobs or [None] * len(ids)
        spelled: list[TokenLogprob | None] = [
            None if each is None else spell_logprob(self._service.tokenizer, each) for each in results
        ]
        pairs = list(zip(ids, spelled, strict=True))[self._body.logprob_start_len :]
        return [[None if each is None else each.logprob, token, self._text(token)] for token, each in pairs]


def _finish_reason(completion: Completion) -> dict[str, Any] | None:
    if completion.finish_reason is None:
        return None
    if completion.finish_reason == "length":
        return {"type": "length", "length": len(completion.token_ids)}
    return {"type": "stop", "matched": completion.stop_reason}
