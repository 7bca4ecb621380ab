"""Gathers the deltas of one request into its RequestOutput."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from inflight.errors import InflightError
from inflight.runtime.request.accumulator import PendingDeltas, best_of
from inflight.runtime.request.deltas import RequestMetrics, TokenDelta
from inflight.runtime.request.outputs import CompletionOutput, Logprob, RequestOutput, combined_metrics
from inflight.runtime.request.request import Request
from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.completion import Completion, CompletionDelta, RequestText, TokenLogprob, spell_logprob
from inflight.runtime.text.parsers.answer import AnswerFormat, AnswerParts
from inflight.runtime.text.parsers.message import GrowingMessage
from inflight.runtime.text.tokenizer import Tokenizer


class RequestCollector:
    """The state of one request between the engine core and its caller.

    `outputs` fills as deltas come: with `stream`, one output per delta that says something new; without, the whole at
    the end. `finished` is set when the core has given the last delta of every sequence, `failure` when an error ended
    one. `form`: how the parts of an answer are told apart, None where nobody asks.

    Text is decoded while it grows if somebody reads it, or if stop strings are looked for in it. Else it is decoded at
    the end: between two steps, when nothing of this is in the caches, it would take several times as long.
    """

    def __init__(
        self,
        request: Request,
        prompt: str | None,
        tokenizer: Tokenizer,
        stream: bool,
        form: AnswerFormat | None = None,
    ) -> None:
        params = request.params
        self.request = request
        self.outputs: deque[RequestOutput] = deque()
        self.finished = False
        self.failure: InflightError | None = None
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._stream = stream
        self._at_the_end = not stream and not params.stop
        self._held_back = PendingDeltas()
        self._text = RequestText(tokenizer, params, () if form is None else form.markers)
        self._completions = [Completion(index) for index in range(request.num_sequences)]
        self._messages: list[tuple[AnswerParts, GrowingMessage]] = []
        if form is not None:
            skips = params.skip_special_tokens
            self._messages = [(AnswerParts(form, tokenizer, skips), GrowingMessage()) for _ in self._completions]
        # Of each completion, in the shape of its output, so that a stream does not bring all into it again and again.
        self._logprobs: list[list[dict[int, Logprob]]] = [[] for _ in self._completions]
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
            self.failure = self.failure or delta.failure
            self._unfinished -= 1
            self.finished = self._unfinished == 0
        self._held_back.put(delta)
        if self._at_the_end and not self.finished:
            return False
        news = [completion for held in self._held_back.take() for completion in self._text.push(held)]
        for completion in news:
            self._completions[completion.index].add(completion)
            if self._messages:
                parts, message = self._messages[completion.index]
                message.add(parts.push(completion))
            self._logprobs[completion.index] += [_as_dict(entry) for entry in completion.logprobs]
        if self.finished or (self._stream and news):
            self.outputs.append(self._snapshot(news))
        return any(completion.cancel for completion in news)

    def _spell(self, result: TokenResult) -> dict[int, Logprob]:
        return _as_dict(spell_logprob(self._tokenizer, result))

    def _snapshot(self, news: list[CompletionDelta]) -> RequestOutput:
        gained = {each.index: each.text for each in news}
        best = best_of(self._completions, self.request.params.n)
        return RequestOutput(
            request_id=self.request.request_id,
            prompt=self._prompt,
            prompt_token_ids=self.request.prompt_token_ids,
            outputs=tuple(self._output(each, gained.get(each.index, "") if self._stream else None) for each in best),
            prompt_logprobs=self._prompt_logprobs,
            metrics=combined_metrics(self._metrics) if self.finished and self._metrics else None,
            finished=self.finished,
        )

    def _output(self, completion: Completion, text_delta: str | None) -> CompletionOutput:
        """`text_delta` None: where there is no stream, all of the text is new."""
        message = self._messages[completion.index][1] if self._messages else None
        return CompletionOutput(
            index=completion.index,
            text=completion.text,
            token_ids=tuple(completion.token_ids),
            cumulative_logprob=completion.cumulative_logprob,
            logprobs=None if self.request.params.logprobs is None else list(self._logprobs[completion.index]),
            finish_reason=completion.finish_reason,
            stop_reason=completion.stop_reason,
            text_delta=completion.text if text_delta is None else text_delta,
            content=message.content if message else None,
            reasoning=message.reasoning if message else None,
            tool_calls=message.tool_calls if message else (),
        )


def _as_dict(entry: TokenLogprob) -> dict[int, Logprob]:
    """The chosen token first, then the most likely ones in order."""
    chosen = {entry.token_id: Logprob(entry.logprob, entry.rank, entry.text)}
    return chosen | {
        choice.token_id: Logprob(choice.logprob, rank, choice.text)
        for rank, choice in enumerate(entry.top, start=1)
        if choice.token_id != entry.token_id
    }


def counted(outputs: Iterator[RequestOutput], advance: Callable[..., None]) -> Iterator[RequestOutput]:
    """Pass `outputs` through, each one a unit of progress, with the rate of tokens beside it."""
    num_tokens = 0
    for output in outputs:
        num_tokens += sum(len(each.token_ids) for each in output.outputs)
        advance(1, f"{num_tokens} tokens")
        yield output
