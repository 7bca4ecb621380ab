"""From the token deltas of one request to the text deltas of its completions, and these added up.

The LLM class, the server's shim and tensorrt_llm_bls use it alike, over the engine in this process and over Triton.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from inflight.runtime.request.accumulator import add_logprobs
from inflight.runtime.request.deltas import FinishReason, TokenDelta
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.scheduler.step import TokenResult
from inflight.runtime.text.text_stream import TextDelta, TextStream
from inflight.runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A token and its log probability. `bytes` is what it adds to the text; `text` is that, decoded."""

    token_id: int
    text: str
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob(TokenChoice):
    """The chosen token. `rank` counts from 1; `top` is most likely first; `text_offset` counts the characters of the
    completion that were certain before the token came."""

    rank: int = 0
    top: tuple[TokenChoice, ...] = ()
    text_offset: int = 0


@dataclass(slots=True)
class CompletionDelta:
    """The next part of completion `index`: text that is final, and tokens (whose text may come later).

    Not frozen, for the time that takes; whoever is given one leaves it as it is.
    The last delta of a completion has a `finish_reason`. With `cancel` a stop string ended it and the engine does not
    know: the caller cancels sequence `index`. `logprobs` has one entry per token when params.logprobs is set.
    `cumulative_logprob` is the sum over the completion so far; None without log probabilities.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    cumulative_logprob: float | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    cancel: bool = False
    error: str | None = None


@dataclass(slots=True)
class Completion:
    """One completion while it grows: its deltas added up. Tokens after a stop string are not part of it."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    cumulative_logprob: float | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    _pieces: list[str] = field(default_factory=list)

    def add(self, delta: CompletionDelta) -> None:
        self._pieces.append(delta.text)
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.cumulative_logprob = delta.cumulative_logprob
        self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason

    @property
    def text(self) -> str:
        """All of it. Pieces are joined when it is read: to lengthen the text for each would copy it as often."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""


class RequestText:
    """The text side of one request: a TextStream for each of its sequences, however their deltas interleave.

    `markers`: see TextStream.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams, markers: Collection[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._params = params
        self._markers = markers
        self._streams: dict[int, TextStream] = {}
        self._cumulative: dict[int, float | None] = {}
        self._finished: set[int] = set()

    @property
    def finished(self) -> bool:
        """Whether every completion has ended."""
        return len(self._finished) == self._params.num_sequences

    def push(self, delta: TokenDelta) -> list[CompletionDelta]:
        """What `delta` adds: one CompletionDelta, or none when its completion has already ended at a stop string."""
        if delta.index in self._finished:
            return []
        stream = self._streams.setdefault(delta.index, TextStream(self._tokenizer, self._params, self._markers))
        text, logprobs = self._decode(stream, delta)
        stopped = text.stop_string is not None
        if stopped or delta.finish_reason is not None:
            self._finished.add(delta.index)
            self._streams.pop(delta.index)
        if delta.logprobs:
            kept = delta.logprobs[: text.num_tokens]
            self._cumulative[delta.index] = add_logprobs(self._cumulative.get(delta.index), kept)
        completion = CompletionDelta(
            index=delta.index,
            text=text.text,
            token_ids=delta.token_ids[: text.num_tokens],
            logprobs=logprobs,
            cumulative_logprob=self._cumulative.get(delta.index),
            finish_reason="stop" if stopped else delta.finish_reason,
            stop_reason=text.stop_string if stopped else delta.stop_reason,
            cancel=stopped and delta.finish_reason is None,
            error=delta.error,
        )
        return [completion]

    def _decode(self, stream: TextStream, delta: TokenDelta) -> tuple[TextDelta, tuple[TokenLogprob, ...]]:
        """The new text, and each token's log probability, with the offset of the token, if they are asked for."""
        finished = delta.finish_reason is not None
        if self._params.logprobs is None or not delta.logprobs:
            return stream.push(delta.token_ids, delta.ended_by_token, finished), ()
        text, logprobs = "", []
        last = len(delta.token_ids) - 1
        for position, (token_id, result) in enumerate(zip(delta.token_ids, delta.logprobs, strict=True)):
            logprobs.append(spell_logprob(self._tokenizer, result, stream.num_decoded_characters))
            part = stream.push((token_id,), ended_by_token=delta.ended_by_token and position == last)
            text += part.text
            if part.stop_string is not None:
                return TextDelta(text, position + 1, part.stop_string), tuple(logprobs)
        end = stream.push((), finished=finished)
        return TextDelta(text + end.text, len(delta.token_ids), end.stop_string), tuple(logprobs)


def spell_logprob(tokenizer: Tokenizer, result: TokenResult, text_offset: int = 0) -> TokenLogprob:
    """`result` with its tokens spelled out."""
    choice = _choice(tokenizer, result.token_id, result.logprob)
    top = tuple(_choice(tokenizer, token_id, logprob) for token_id, logprob in result.top)
    return TokenLogprob(choice.token_id, choice.text, choice.bytes, choice.logprob, result.rank, top, text_offset)


def _choice(tokenizer: Tokenizer, token_id: int, logprob: float) -> TokenChoice:
    spelled = tokenizer.token_bytes(token_id)
    return TokenChoice(token_id, spelled.decode("utf-8", errors="replace"), spelled, logprob)
