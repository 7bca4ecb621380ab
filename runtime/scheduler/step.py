"""The batch that the scheduler gives to an executor, and its results. Plain values: integers, floats and tuples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

# The records that are made for every token are not frozen: a frozen dataclass takes five times as long to make.


@dataclass(frozen=True, slots=True)
class RowSampling:
    """How the token of one logit row is chosen; constant over the life of a sequence.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1, `min_p` 0, `typical_p` 1, `top_n_sigma` 0, penalties of
    1 / 0 / 0 and `watermark_delta` 0 are off.
    `num_logprobs`: -1 none, 0 the chosen token's, n > 0 also the n most likely.
    `bias` holds (token id, value) pairs that are added to the logits.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    watermark_delta: float = 0.0
    watermark_gamma: float = 0.5
    seed: int = 0
    num_logprobs: int = -1
    bias: tuple[tuple[int, float], ...] = ()

    @property
    def needs_history(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def takes_greatest(self) -> bool:
        """Whether the token is that of the greatest logit as the model has it, and no log probability is wanted."""
        adjusted = self.needs_history or bool(self.bias) or self.watermark_delta > 0
        return self.temperature <= 0 and self.num_logprobs < 0 and not adjusted


@dataclass(slots=True)
class ScheduledSequence:
    """One sequence's part of a step: a chunk of its prompt, or its last token.

    `token_ids` are computed at positions `start`, `start + 1`, ...; the cache already holds `start` tokens, and
    `block_table` covers `start + len(token_ids)`. With `sample_last`, a token is chosen after the last row:
    `history` (prompt then output, needed only for penalties) has `prompt_length` prompt tokens, `banned` tokens cannot
    be chosen, nor those whose bit in `allowed` is 0 (words of 32 bits, little-endian, the lowest first; None: all may),
    and the generator is keyed by (sampling.seed, start + len(token_ids)).
    `prompt_targets`, when not empty, asks for the log probability of a given next token at each of the first
    len(prompt_targets) rows, with `prompt_num_logprobs` alternatives. `sample_last` says whether the last row chooses a
    token; it needs `sampling`. `token_types` are the kinds of the tokens, of a model that tells some apart; empty: all
    are of the first.
    `follows`, where it is not negative: the one token of the record was not known when the step was scheduled. It is
    what the step submitted before this one chooses for its sequence at that place; `token_ids` has a 0 for it, and
    `history` lacks it. Only an OverlappingExecutor gets such records.

    A record holds until the step's results are published. The scheduler may then give the same object again for the
    next token of the same sequence: its one token, `start` and blocks appended to `block_table` are all that differ, so
    that an executor need not read the rest of a record which it had in the step before. A sequence with bans, a mask
    or a history gets a new record for each token; all its histories are one list, which only grows, by what was chosen
    for it.
    """

    slot: int
    token_ids: Sequence[int]
    start: int
    block_table: Sequence[int]
    sampling: RowSampling | None = None
    sample_last: bool = False
    prompt_length: int = 0
    history: Sequence[int] = ()
    banned: tuple[int, ...] = ()
    prompt_targets: Sequence[int] = ()
    prompt_num_logprobs: int = -1
    allowed: bytes | None = None
    token_types: Sequence[int] = ()
    follows: int = -1

    @property
    def num_logit_rows(self) -> int:
        return len(self.prompt_targets) + (1 if self.sample_last else 0)

    def with_token(self, token_id: int) -> ScheduledSequence:
        """A record that follows a token, now that this is known."""
        history = [*self.history[: self.start], token_id] if self.history else ()
        return replace(self, token_ids=(token_id,), history=history, follows=-1)


@dataclass(slots=True)
class StepBatch:
    """One step: a ragged batch of prefill chunks and decodes in any mixture.

    `unmasked` are its sequences as far as the forward pass needs them: `allowed` and `banned` of those with a
    structured output are known once `masks` was called, which `sequences` does when it is first read. An executor whose
    device computes by itself launches from `unmasked`, and reads `sequences` while the device is at work.
    """

    unmasked: Sequence[ScheduledSequence]
    masks: Callable[[], None] | None = None

    @property
    def sequences(self) -> Sequence[ScheduledSequence]:
        """Its sequences, with their masks."""
        if self.masks is not None:
            compute, self.masks = self.masks, None
            compute()
        return self.unmasked

    @property
    def num_tokens(self) -> int:
        return sum(len(sequence.token_ids) for sequence in self.unmasked)


@dataclass(slots=True)
class TokenResult:
    """A token with its log probability under the model's own distribution (before penalties and temperature).

    `rank` counts from 1; `top` holds (token id, log probability), most likely first. Without logprobs only `token_id`
    is meaningful.
    """

    token_id: int
    logprob: float = 0.0
    rank: int = 0
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class SequenceResult:
    """The results of one ScheduledSequence: the chosen token if `sample_last`, and one entry per prompt target."""

    sampled: TokenResult | None = None
    prompt: tuple[TokenResult, ...] = ()


@dataclass(slots=True)
class StepOutput:
    """Results in the order of StepBatch.sequences.

    `token_ids` has the chosen token of each sequence, None where none was to be chosen. `scored` has, by place, the
    whole result of each sequence for which log probabilities were computed.
    """

    token_ids: Sequence[int | None]
    scored: Mapping[int, SequenceResult] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Sequence[SequenceResult]) -> StepOutput:
        """From one whole result per sequence."""
        tokens = [None if result.sampled is None else result.sampled.token_id for result in results]
        return cls(tokens, dict(enumerate(results)))

    @property
    def results(self) -> list[SequenceResult]:
        """One whole result per sequence."""
        return [
            self.scored.get(place) or SequenceResult(None if token_id is None else TokenResult(token_id))
            for place, token_id in enumerate(self.token_ids)
        ]
