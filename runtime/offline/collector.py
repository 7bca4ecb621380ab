"""Gathers the deltas of one request into its RequestOutput."""

from __future__ import annotations

from collections import deque

from inflight.runtime.request.deltas import RequestMetrics, TokenDelta
from inflight.runtime.request.outputs import CompletionOutput, Logprob, RequestOutput, best_outputs, combined_metrics
from inflight.runtime.request.request import Request
from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.completion import CompletionDelta, RequestText, TokenLogprob, spell_logprob
from inflight.runtime.text.tokenizer import Tokenizer


class _Completion:
    """One completion while it grows."""

    def __init__(self, index: int, with_logprobs: bool) -> None:
        self._index = index
        self.text = ""
        self._token_ids: list[int] = []
        self._logprobs: list[dict[int, Logprob]] | None = [] if with_logprobs else None
        self.cumulative_logprob: float | None = None
        self._last: CompletionDelta | None = None

    def add(self, delta: CompletionDelta) -> None:
        self.text += delta.text
        self._token_ids += delta.token_ids
        if self._logprobs is not None:
            self._logprobs += [_as_dict(entry) for entry in delta.logprobs]
        self._last = delta

    def output(self, text_delta: str) -> CompletionOutput:
        return CompletionOutput(
            index=self._index,
            text=self.text,
            token_ids=tuple(self._token_ids),
            cumulative_logprob=self.cumulative_logprob,
            logprobs=None if self._logprobs is None else list(self._logprobs),
            finish_reason=None if self._last is None else self._last.finish_reason,
            stop_reason=None if self._last is None else self._last.stop_reason,
            text_delta=text_delta,
        )


class RequestCollector:
    """The state of one request between the engine core and its caller.

    `outputs` fills as deltas come: with `stream`, one output per delta that says something new; without, the whole at
    the end. `finished` is set when the core has given the last delta of every sequence.

    Text is decoded while it grows if somebody reads it, or if stop strings are looked for in it. Else it is decoded at
    the end: between two steps, when nothing of this is in the caches, it would take several times as long.
    """

    def __init__(self, request: Request, prompt: str | None, tokenizer: Tokenizer, stream: bool) -> None:
        params = request.params
        self.request = request
        self.outputs: deque[RequestOutput] = deque()
        self.finished = False
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._stream = stream
        self._at_the_end = not stream and not params.stop
        self._held_back: list[TokenDelta] = []
        self._text = RequestText(tokenizer, params)
        self._completions = [_Completion(i, params.logprobs is not None) for i in range(request.num_sequences)]
        self._metrics: list[RequestMetrics] = []
        self._prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        self._unfinished = request.num_sequences

    def push(self, delta: TokenDelta) -> bool:
        """Take in a delta; true when a stop string ended its sequence, which must then be cancelled."""
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = [self._spell(entry) if entry else None for entry in delta.prompt_logprobs]
        if delta.metrics is not None:
            self._metrics.append(delta.metrics)
        if delta.finish_reason is not None:
            self._unfinished -= 1
            self.finished = self._unfinished == 0
        self._held_back.append(delta)
        if self._at_the_end and not self.finished:
            return False
        completions = self._decode_held_back()
        if self.finished or (self._stream and completions):
            self.outputs.append(self._snapshot(completions))
        return any(completion.cancel for completion in completions)

    def _decode_held_back(self) -> list[CompletionDelta]:
        completions = []
        for delta in self._held_back:
            for completion in self._text.push(delta):
                self._add(completion, delta)
                completions.append(completion)
        self._held_back.clear()
        return completions

    def _add(self, completion: CompletionDelta, delta: TokenDelta) -> None:
        target = self._completions[completion.index]
        target.add(completion)
        if delta.logprobs:
            kept = delta.logprobs[: len(completion.token_ids)]
            target.cumulative_logprob = (target.cumulative_logprob or 0.0) + sum(entry.logprob for entry in kept)

    def _spell(self, result: TokenResult) -> dict[int, Logprob]:
        return _as_dict(spell_logprob(self._tokenizer, result))

    def _snapshot(self, news: list[CompletionDelta]) -> RequestOutput:
        gained = {each.index: each.text for each in news}
        outputs = [
            each.output(gained.get(index, "") if self._stream else each.text)
            for index, each in enumerate(self._completions)
        ]
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=self._prompt,
            prompt_token_ids=self.request.prompt_token_ids,
            outputs=best_outputs(outputs, self.request.params.n),
            prompt_logprobs=self._prompt_logprobs,
            metrics=combined_metrics(self._metrics) if self.finished and self._metrics else None,
            finished=self.finished,
        )


def _as_dict(entry: TokenLogprob) -> dict[int, Logprob]:
    """The chosen token first, then the most likely ones in order."""
    chosen = {entry.token_id: Logprob(entry.logprob, entry.rank, entry.text)}
    return chosen | {
        choice.token_id: Logprob(choice.logprob, rank, choice.text)
        for rank, choice in enumerate(entry.top, start=1)
        if choice.token_id != entry.token_id
    }
