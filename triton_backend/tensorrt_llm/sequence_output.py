"""The output of one sequence, divided into responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from inflight.errors import InflightError
from inflight.runtime.request.accumulator import add_logprobs, join_deltas
from inflight.runtime.request.deltas import TokenDelta
from inflight.triton_backend.tensorrt_llm.generation_request import GenerationRequest

# Ids that go before a chunk, for a decoder without memory. A character is 4 bytes at most and joined emoji a few
# dozen, so a decoder that starts this far back has the same state as one that saw everything.
CONTEXT_LENGTH = 64


@dataclass(slots=True)
class Chunk:
    """What one response says: the news, joined. `context`: the ids before them, at most CONTEXT_LENGTH of them;
    `cumulative_logprob`: the sum over the sequence so far; `logprobs`: those of all its tokens so far, where
    return_log_probs asks for them, which is of the sequence and grows."""

    delta: TokenDelta
    context: tuple[int, ...]
    cumulative_logprob: float
    logprobs: Sequence[float]


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
    _pending: list[TokenDelta] = field(default_factory=list)
    _num_sent: int = 0
    _cumulative: float | None = None
    _logprobs: list[float] = field(default_factory=list)
    _stopped: bool = False
    _stop_text: str | None = None
    _last: TokenDelta | None = None

    def add(self, delta: TokenDelta) -> None:
        """Take in news from the engine."""
        num_kept = 0 if self._stopped else self._append(delta)
        if self._stopped or num_kept < len(delta.token_ids):
            delta = self._cut(delta, num_kept)
        self._cumulative = add_logprobs(self._cumulative, delta.logprobs)
        if self.generation.wanted.log_probs:
            self._logprobs += [result.logprob for result in delta.logprobs]
        self._pending.append(delta)
        if delta.finish_reason is not None:
            self._last = delta
        self.wants_cancel = self._stopped and self._last is None

    @property
    def finished(self) -> bool:
        """Whether the engine is done with the sequence."""
        return self._last is not None

    @property
    def num_tokens(self) -> int:
        return len(self._ids)

    @property
    def failure(self) -> InflightError | None:
        return None if self._last is None else self._last.failure

    @property
    def has_news(self) -> bool:
        """Whether there is something to send to a streaming client."""
        return self._num_sent < len(self._ids) or self.finished

    def take(self) -> Chunk:
        """The tokens since the last chunk, when there is news; with the end of the sequence when it has come."""
        start, self._num_sent = self._num_sent, len(self._ids)
        pending, self._pending = self._pending, []
        context = tuple(self._ids[max(0, start - CONTEXT_LENGTH) : start])
        return Chunk(join_deltas(pending), context, self._cumulative or 0.0, self._logprobs)

    def _append(self, delta: TokenDelta) -> int:
        """Add the tokens that are part of the output; how many these are."""
        hides_last = delta.ended_by_token and not self.generation.wanted.end_token
        num_shown = len(delta.token_ids) - hides_last
        if not self.generation.stop_words:
            self._ids += delta.token_ids[:num_shown]
            return num_shown
        for position, token_id in enumerate(delta.token_ids[:num_shown]):
            self._ids.append(token_id)
            if (word := self._last_stop_word()) is not None:
                self._stopped = True
                self._stop_text = self.generation.stop_texts[word] if self.generation.stop_texts else None
                return position + 1
        return num_shown

    def _cut(self, delta: TokenDelta, num_kept: int) -> TokenDelta:
        """The first tokens of `delta`; a sequence that a stop word ended has stopped, whatever the engine called it."""
        cut = replace(delta, token_ids=delta.token_ids[:num_kept], logprobs=delta.logprobs[:num_kept])
        if self._stopped and delta.finish_reason is not None:
            cut.finish_reason, cut.stop_reason = "stop", self._stop_text
        return cut

    def _last_stop_word(self) -> int | None:
        """Which stop word the ids end with."""
        if len(self._ids) < self.generation.request.params.min_tokens:
            return None
        words = enumerate(self.generation.stop_words)
        return next((index for index, word in words if tuple(self._ids[-len(word) :]) == word), None)
