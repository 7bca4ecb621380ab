"""Beam search over whatever computes the likeliest next tokens.

The search is that of transformers (GenerationMixin._beam_search, early_stopping=False): a step looks at so many
continuations of all beams that as many as there are beams go on, whichever end; only ended ones among the first
beam_width are kept; scores are log probabilities over the number of generated tokens to the power of length_penalty; it
ends when the best running beam, at its present length, is no better than the worst of beam_width ended ones.
Objects and their names are those of vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Generic, Protocol, TypeVar

from inflight.errors import RequestError
from inflight.runtime.request.outputs import Logprob
from inflight.sampling_parameters import MAX_LOGPROBS, MOST_LENGTH_PENALTY, to_float32


class Choice(Protocol):
    """What is known of a token that may come next."""

    @property
    def logprob(self) -> float: ...


ChoiceT = TypeVar("ChoiceT", bound=Choice)
# The likeliest next tokens of each of many sequences, the likeliest first; the number asks for so many.
NextTokens = Callable[[Sequence[tuple[int, ...]], int], Sequence[dict[int, ChoiceT]]]


@dataclass(frozen=True, slots=True)
class BeamSearchParams:
    """beam_width: sequences that are looked for, and returned. max_tokens: of each, at most. length_penalty: above 0
    longer sequences win more often, below 0 shorter ones. ignore_eos: end tokens end nothing. temperature: 0, since
    nothing is sampled. include_stop_str_in_output: keep the end token in the text.

    Raises RequestError on a value of another type or outside its range.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        for name in ("beam_width", "max_tokens"):
            value: Any = getattr(self, name)
            if not isinstance(value, Integral) or value is True or int(value) < 1:
                raise RequestError(f"{name} is {value!r}; it must be an integer, at least 1.")
        penalty: Any = self.length_penalty
        if not isinstance(penalty, Real) or not abs(float(penalty)) <= MOST_LENGTH_PENALTY:
            limits = f"between -{MOST_LENGTH_PENALTY} and {MOST_LENGTH_PENALTY}"
            raise RequestError(f"length_penalty is {penalty!r}; it must be a number {limits}.")
        if self.temperature != 0:
            raise RequestError(
                f"temperature is {self.temperature}; beam search samples nothing.",
                "Leave it at 0, or sample with generate.",
            )


@dataclass(frozen=True, slots=True)
class BeamSearchSequence:
    """One sequence that was found. `tokens` and `text` begin with the prompt, as vLLM's do; `logprobs` has an entry for
    each generated token, of those that were looked at in its place; `score` is what sequences are ordered by.
    """

    tokens: list[int]
    logprobs: list[dict[int, Logprob]]
    cum_logprob: float
    text: str
    finish_reason: str
    score: float
    stop_reason: int | str | None = None
    lora_request: None = None


@dataclass(frozen=True, slots=True)
class BeamSearchOutput:
    """The sequences of one prompt, the best first."""

    sequences: list[BeamSearchSequence]


@dataclass(slots=True)
class Beam(Generic[ChoiceT]):
    """A sequence on its way: all tokens, the sum of the log probabilities of those that were generated."""

    tokens: tuple[int, ...]
    total: float = 0.0
    logprobs: list[dict[int, ChoiceT]] = field(default_factory=list)
    ended_by: int | None = None
    score: float = 0.0


@dataclass(slots=True)
class Search(Generic[ChoiceT]):
    """The search of one prompt. `end_tokens` are empty where none ends anything."""

    params: BeamSearchParams
    prompt: tuple[int, ...]
    end_tokens: frozenset[int]
    running: list[Beam[ChoiceT]] = field(default_factory=list)
    ended: list[Beam[ChoiceT]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running = [Beam(self.prompt)]

    @property
    def width(self) -> int:
        return self.params.beam_width

    @property
    def looked_at(self) -> int:
        """So many continuations are looked at that beam_width of them go on, whichever tokens end some."""
        return max(2, 1 + len(self.end_tokens)) * self.width

    def step(self, choices: Sequence[dict[int, ChoiceT]]) -> None:
        """Go on by one token; `choices` are the likeliest ones of each running beam."""
        generated = len(self.running[0].tokens) + 1 - len(self.prompt)
        candidates = [
            (beam.total + choice.logprob, beam, token_id, options)
            for beam, options in zip(self.running, choices, strict=True)
            for token_id, choice in options.items()
        ]
        # Sorting is stable: of equal ones the earlier beam's, and the likelier of its tokens, come first.
        best = sorted(candidates, key=lambda each: -each[0])[: self.looked_at]
        is_last = generated == self.params.max_tokens
        going_on: list[Beam[ChoiceT]] = []
        for place, (total, beam, token_id, options) in enumerate(best):
            ends = token_id in self.end_tokens
            longer = Beam((*beam.tokens, token_id), total, [*beam.logprobs, options], token_id if ends else None)
            if not ends and not is_last:
                going_on.append(longer)
            elif place < self.width:
                longer.score = self._score(total, generated)
                self.ended.append(longer)
        self.ended = sorted(self.ended, key=lambda beam: -beam.score)[: self.width]
        self.running = going_on[: self.width]
        if self.running and len(self.ended) == self.width:
            best_possible = self._score(self.running[0].total, generated)
            if best_possible <= self.ended[-1].score:
                self.running = []

    def best_so_far(self) -> list[Beam[ChoiceT]]:
        """What there is of a search that is given up: the sequences that ended, and then those that did not."""
        return [*self.ended, *self.running][: self.width]

    def _score(self, total: float, generated: int) -> float:
        return float(total / generated ** to_float32(self.params.length_penalty))


def run(searches: Sequence[Search[ChoiceT]], next_tokens: NextTokens[ChoiceT]) -> None:
    """Take the searches to their ends, the beams of all in one batch at each step."""
    while unfinished := [search for search in searches if search.running]:
        most = max(search.looked_at for search in unfinished)
        choices = iter(next_tokens([beam.tokens for search in unfinished for beam in search.running], most))
        for search in unfinished:
            search.step([next(choices) for _ in search.running])


def check_search(search: Search[Any], max_seq_len: int) -> None:
    """Raises RequestError for a prompt without room, and for more beams than an engine has log probabilities for."""
    if len(search.prompt) + search.params.max_tokens > max_seq_len:
        raise RequestError(
            f"The prompt has {len(search.prompt)} tokens and max_tokens is {search.params.max_tokens}; this engine "
            f"takes {max_seq_len} in all.",
            "Shorten the prompt or lower max_tokens.",
        )
    if search.looked_at > MAX_LOGPROBS:
        kinds = len(search.end_tokens)
        most = MAX_LOGPROBS * search.width // search.looked_at
        raise RequestError(
            f"beam_width is {search.width}; with {kinds} end tokens at most {most} are possible.",
            "A step looks at the 64 likeliest tokens of each sequence.",
        )
