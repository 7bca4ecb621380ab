"""The output of one sequence, divided into responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from inflight.runtime.request.deltas import FinishReason, RequestMetrics, TokenDelta
from inflight.runtime.scheduler.step import TokenResult
from inflight.triton_backend.tensorrt_llm.generation_request import GenerationRequest

# Ids that go before a chunk, for a decoder without memory. A character is 4 bytes at most and joined emoji a few
# dozen, so a decoder that starts this far back has the same state as one that saw everything.
CONTEXT_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one response says. `context`: the ids before `token_ids`, at most CONTEXT_LENGTH of them."""

    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenResult, ...]
    context: tuple[int, ...]
    cumulative_logprob: float
    prompt_logprobs: tuple[TokenResult | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    metrics: RequestMetrics | None = None


@dataclass(slots=True)
class SequenceOutput:
    """Collects the deltas of sequence `index` and gives them out as chunks.

    Looks for stop words among the ids: the sequence ends with the first complete one, which stays in the output. Tokens
    that the engine computes after it, before it learns of the end, are dropped; `wants_cancel` says when to tell it.
    """

    generation: GenerationRequest
    index: int
    wants_cancel: bool = False
    _ids: list[int] = field(default_factory=list)
    _logprobs: list[TokenResult] = field(default_factory=list)
    _num_sent: int = 0
    _cumulative: float = 0.0
    _prompt_logprobs: tuple[TokenResult | None, ...] | None = None
    _stopped: bool = False
    _last: TokenDelta | None = None

    def add(self, delta: TokenDelta) -> None:
        """Take in news from the engine."""
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = delta.prompt_logprobs
        if delta.finish_reason is not None:
            self._last = delta
        if not self._stopped:
            keep_all = self.generation.wanted.end_token or not delta.ended_by_token
            self._append(delta.token_ids if keep_all else delta.token_ids[:-1], delta.logprobs)
        self.wants_cancel = self._stopped and self._last is None

    @property
    def finished(self) -> bool:
        """Whether the engine is done with the sequence."""
        return self._last is not None

    @property
    def num_tokens(self) -> int:
        return len(self._ids)

    @property
    def error(self) -> str | None:
        return None if self._last is None or self._last.finish_reason != "error" else self._last.error

    @property
    def has_news(self) -> bool:
        """Whether there is something to send to a streaming client."""
        return self._num_sent < len(self._ids) or self.finished

    def take(self) -> Chunk:
        """The tokens since the last chunk; with the end of the sequence when it has come."""
        start, end = self._num_sent, len(self._ids)
        self._num_sent = end
        prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        chunk = Chunk(
            index=self.index,
            token_ids=tuple(self._ids[start:end]),
            logprobs=tuple(self._logprobs[start:end]),
            context=tuple(self._ids[max(0, start - CONTEXT_LENGTH) : start]),
            cumulative_logprob=self._cumulative,
            prompt_logprobs=prompt_logprobs,
        )
        return chunk if self._last is None else self._with_end(chunk, self._last)

    def _with_end(self, chunk: Chunk, last: TokenDelta) -> Chunk:
        reason: FinishReason | None = "stop" if self._stopped else last.finish_reason
        stop_reason = None if self._stopped else last.stop_reason
        return replace(chunk, finish_reason=reason, stop_reason=stop_reason, metrics=last.metrics)

    def _append(self, token_ids: Sequence[int], logprobs: Sequence[TokenResult]) -> None:
        for position, token_id in enumerate(token_ids):
            self._ids.append(token_id)
            if position < len(logprobs):
                self._logprobs.append(logprobs[position])
                self._cumulative += logprobs[position].logprob
            if self._ends_with_stop_word():
                self._stopped = True
                return

    def _ends_with_stop_word(self) -> bool:
        if len(self._ids) < self.generation.request.params.min_tokens:
            return False
        return any(tuple(self._ids[-len(word) :]) == word for word in self.generation.stop_words)
