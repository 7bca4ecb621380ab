"""How `select` decides between options from the log probabilities of their tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# A token as meta_info has it: its log probability (None where it has none), its id, and its text.
TokenLogprob = tuple[float | None, int | None, str | None]


@dataclass(frozen=True, slots=True)
class ChoicesDecision:
    """The option that was taken, and what get_meta_info says of it."""

    decision: str
    meta_info: dict[str, Any] | None = None


class ChoicesSamplingMethod(ABC):
    """A rule that takes one of the options. Programs may have their own."""

    @property
    def requires_unconditional_logprobs(self) -> bool:
        """Whether it needs the log probabilities of the options' tokens where nothing stands before them."""
        return False

    @abstractmethod
    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[TokenLogprob]],
        output_token_logprobs: list[list[TokenLogprob]],
        unconditional_token_logprobs: list[list[TokenLogprob]] | None = None,
    ) -> ChoicesDecision:
        """The decision. One entry for each option: `normalized_prompt_logprobs` the mean over its tokens,
        `input_token_logprobs` these tokens; `output_token_logprobs` is empty, since nothing is generated."""


class _TokenLengthNormalized(ChoicesSamplingMethod):
    """The option with the greatest mean log probability of a token."""

    def __call__(
        self, *, choices: list[str], normalized_prompt_logprobs: list[float], **scores: Any
    ) -> ChoicesDecision:
        return _decide(choices, normalized_prompt_logprobs, normalized_prompt_logprobs, scores)


class _GreedyTokenSelection(ChoicesSamplingMethod):
    """Token by token, the options whose next token is the likeliest stay. One that has ended goes on with the mean of
    its own tokens, so that a longer one which begins with it can be compared."""

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[TokenLogprob]],
        **scores: Any,
    ) -> ChoicesDecision:
        length = max(map(len, input_token_logprobs))
        rows = [
            [*_values(tokens), *[mean] * (length - len(tokens))]
            for tokens, mean in zip(input_token_logprobs, map(mean_logprob, input_token_logprobs), strict=True)
        ]
        # Lists compare as the rule does: by the first place where they differ.
        decision = _decide(choices, rows, normalized_prompt_logprobs, scores)
        meta_info = {"input_token_logprobs": input_token_logprobs, "greedy_logprob_matrix": rows}
        return ChoicesDecision(decision.decision, {**(decision.meta_info or {}), **meta_info})


class _UnconditionalLikelihoodNormalized(ChoicesSamplingMethod):
    """The option whose tokens gain most from what stands before them: the greatest mean difference between their log
    probability there and where nothing stands before the option. Its first token has none in the latter place: 0."""

    @property
    def requires_unconditional_logprobs(self) -> bool:
        return True

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[TokenLogprob]],
        unconditional_token_logprobs: list[list[TokenLogprob]] | None = None,
        **scores: Any,
    ) -> ChoicesDecision:
        gains = [
            mean_logprob(tokens) - mean_logprob(alone)
            for tokens, alone in zip(input_token_logprobs, unconditional_token_logprobs or [], strict=True)
        ]
        decision = _decide(choices, gains, normalized_prompt_logprobs, scores)
        meta_info = {
            "input_token_logprobs": input_token_logprobs,
            "unconditional_token_logprobs": unconditional_token_logprobs,
            "normalized_unconditional_prompt_logprobs": gains,
        }
        return ChoicesDecision(decision.decision, {**(decision.meta_info or {}), **meta_info})


token_length_normalized = _TokenLengthNormalized()
greedy_token_selection = _GreedyTokenSelection()
unconditional_likelihood_normalized = _UnconditionalLikelihoodNormalized()


def mean_logprob(tokens: Sequence[TokenLogprob]) -> float:
    """Over all of `tokens`; those without a log probability count as 0."""
    return sum(_values(tokens)) / len(tokens)


def _values(tokens: Sequence[TokenLogprob]) -> list[float]:
    return [token[0] or 0.0 for token in tokens]


def _decide(choices: list[str], ranks: Sequence[Any], means: list[float], scores: dict[str, Any]) -> ChoicesDecision:
    """The choice of the greatest rank; of equal ones the first."""
    best = max(range(len(choices)), key=lambda index: ranks[index])
    return ChoicesDecision(choices[best], {"normalized_prompt_logprobs": means, **scores})
