"""An answer in TGI's shapes: the text with its details, or an event for each token."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from inflight.runtime.text.completion import Completion, CompletionDelta, TokenLogprob, spell_logprob
from inflight.triton_backend.dialects.tgi.body import GenerateBody
from inflight.triton_backend.dialects.tgi.errors import tgi_error
from inflight.triton_backend.openai.answers.choice import Usage, collect
from inflight.triton_backend.openai.answers.json_answer import json_bytes
from inflight.triton_backend.openai.errors import Problem
from inflight.triton_backend.openai.service import Generation, Service
from inflight.triton_backend.openai.streaming import SERVER_SENT, Event, Framing

# JSON has no infinity.
_LOWEST = -9999.0


def _line(event: Event) -> bytes:
    return b"data:" + json_bytes(event) + b"\n\n"


def _error_line(problem: Problem) -> bytes:
    return _line(tgi_error(problem)[1])


FRAMING = Framing(SERVER_SENT, _line, _error_line)


class TgiAnswer:
    """One answer in either of its two shapes. `in_list`: a whole one is the only one of a list, as at /."""

    def __init__(self, service: Service, body: GenerateBody, generation: Generation, in_list: bool) -> None:
        self._service = service
        self._body = body
        self._generation = generation
        self._in_list = in_list
        self._seed = generation.request.params.seed if body.parameters.samples else None

    async def whole(self) -> Any:
        found = await collect(self._service, self._generation, Usage([self._generation]))
        best, *others = sorted(found, key=_likelihood, reverse=True)
        answer: dict[str, Any] = {"generated_text": self._full(best.text)}
        if self._body.parameters.details or self._body.parameters.decoder_input_details:
            details = self._details(best)
            if others:
                more = [{"generated_text": self._full(each.text), **self._details(each)} for each in others]
                details["best_of_sequences"] = more
            answer["details"] = details
        return [answer] if self._in_list else answer

    async def events(self) -> AsyncGenerator[Event, None]:
        completion = Completion(0)
        number = 0
        async with aclosing(self._service.run(self._generation)) as deltas:
            async for delta in deltas:
                texts = _texts(completion, delta)
                completion.add(delta)
                for place, (entry, text) in enumerate(zip(delta.logprobs, texts, strict=True)):
                    number += 1
                    is_last = delta.finish_reason is not None and place == len(texts) - 1
                    yield self._event(number, entry, text, completion if is_last else None)
                if delta.finish_reason is not None and not delta.logprobs:
                    yield self._ending(number, completion, delta.text)

    def _event(self, number: int, entry: TokenLogprob, text: str, ended: Completion | None) -> Event:
        event: Event = {"index": number, "token": self._token(entry.token_id, text, entry.logprob)}
        if self._body.parameters.top_n_tokens:
            event["top_tokens"] = self._top(entry)
        return event | self._end(ended)

    def _ending(self, number: int, completion: Completion, text: str) -> Event:
        """For a sequence whose end came without a token: an event needs one, so that the last stands again."""
        last = completion.token_ids[-1] if completion.token_ids else 0
        return {"index": number + 1, "token": self._token(last, text, 0.0), **self._end(completion)}

    def _end(self, ended: Completion | None) -> dict[str, Any]:
        if ended is None:
            return {"generated_text": None, "details": None}
        details = {
            "finish_reason": _finish_reason(ended),
            "generated_tokens": len(ended.token_ids),
            "seed": self._seed,
            "input_length": len(self._generation.request.prompt_token_ids),
        }
        return {"generated_text": self._full(ended.text), "details": details}

    def _full(self, text: str) -> str:
        return self._body.inputs + text if self._body.parameters.return_full_text else text

    def _details(self, completion: Completion) -> dict[str, Any]:
        texts = _spread(completion.text, 0, completion.logprobs)
        details = {
            "finish_reason": _finish_reason(completion),
            "generated_tokens": len(completion.token_ids),
            "seed": self._seed,
            "prefill": self._prefill(),
            "tokens": [
                self._token(entry.token_id, text, entry.logprob)
                for entry, text in zip(completion.logprobs, texts, strict=True)
            ],
        }
        if self._body.parameters.top_n_tokens:
            details["top_tokens"] = [self._top(entry) for entry in completion.logprobs]
        return details

    def _prefill(self) -> list[dict[str, Any]]:
        """The prompt's tokens, if they are wanted. The first has no probability."""
        if not self._body.parameters.decoder_input_details:
            return []
        tokenizer, ids = self._service.tokenizer, self._generation.request.prompt_token_ids
        results = self._generation.prompt_logprobs or [None] * len(ids)
        spelled = [None if each is None else spell_logprob(tokenizer, each) for each in results]
        return [
            {
                "id": token_id,
                "text": tokenizer.decode([token_id], skip_special_tokens=False),
                "logprob": None if entry is None else max(entry.logprob, _LOWEST),
            }
            for token_id, entry in zip(ids, spelled, strict=True)
        ]

    def _token(self, token_id: int, text: str, logprob: float) -> dict[str, Any]:
        """A special token shows its name, which is no part of the generated text. What ends a text counts as one,
        unless text that waited for the rest of a character came with it."""
        special = self._service.tokenizer.special_piece(token_id)
        is_end = token_id in self._generation.request.end_token_ids and not text
        shown = special if special is not None else text
        return {
            "id": token_id,
            "text": shown,
            "logprob": max(logprob, _LOWEST),
            "special": special is not None or is_end,
        }

    def _top(self, entry: TokenLogprob) -> list[dict[str, Any]]:
        return [self._token(each.token_id, each.text, each.logprob) for each in entry.top]


def _likelihood(completion: Completion) -> float:
    """The mean log probability of a token, by which TGI chooses the best."""
    return sum(entry.logprob for entry in completion.logprobs) / max(len(completion.logprobs), 1)


def _finish_reason(completion: Completion) -> str:
    if completion.finish_reason == "length":
        return "length"
    return "stop_sequence" if isinstance(completion.stop_reason, str) else "eos_token"


def _texts(before: Completion, delta: CompletionDelta) -> list[str]:
    """What each token of `delta` adds to the text: joined they are the text, so that a token whose character is not
    whole yet, or which may begin a stop string, adds nothing."""
    return _spread(delta.text, len(before.text), delta.logprobs)


def _spread(text: str, start: int, entries: Sequence[TokenLogprob]) -> list[str]:
    """`text`, which begins at character `start` of the completion, over its tokens."""
    if not entries:
        return []
    ends = [min(max(entry.text_offset - start, 0), len(text)) for entry in entries[1:]] + [len(text)]
    return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
