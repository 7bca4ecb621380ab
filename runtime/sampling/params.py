"""Sampling parameters of a request, under the names of vLLM's SamplingParams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from inflight.errors import RequestError

MAX_LOGPROBS = 64
# Of one request: each is a sequence of its own, so that one request could fill the memory with them.
MAX_COMPLETIONS = 1024
_MAX_TOP_K = (1 << 31) - 1
# Samplers compute in float32, where a smaller number may be 0 and a greater one infinite.
LEAST, GREATEST = 1e-37, 1e38


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request. Raises RequestError on a value outside its range.

    n: how many completions to return; best_of (>= n): how many to compute, the best by cumulative log probability win;
    neither may be more than 1024. temperature: 0 is greedy. top_k: 0 or -1 is off. top_p in (0, 1]. min_p in [0, 1].
    repetition_penalty > 0 (over prompt and output, as in the CTRL paper); presence_penalty and frequency_penalty over
    the output alone, as OpenAI defines them.
    seed: None draws one; the same seed gives the same tokens whatever else is running.
    stop: strings that end the text (not included unless include_stop_str_in_output). stop_token_ids end it as the
    model's own end tokens do. ignore_eos: go on past the model's end tokens. min_tokens: forbid ending before.
    bad_words: token sequences or strings that are never completed. logit_bias: token id to added logit.
    logprobs / prompt_logprobs: None, or how many alternatives beside the chosen token.
    """

    n: int = 1
    best_of: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: tuple[str, ...] | list[str] | str = ()
    stop_token_ids: tuple[int, ...] | list[int] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    bad_words: tuple[str, ...] | list[str] = ()
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    logit_bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        if problems := [*self._wrong_numbers(), *self._wrong_lists()]:
            raise RequestError(" ".join(problems))
        set_field(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        set_field(self, "stop_token_ids", tuple(self.stop_token_ids))
        set_field(self, "bad_words", tuple(self.bad_words))
        set_field(self, "bad_word_ids", tuple(tuple(word) for word in self.bad_word_ids))
        # More than any vocabulary holds is off as well, and must fit the record of the sampler.
        set_field(self, "top_k", 0 if self.top_k == -1 else min(self.top_k, _MAX_TOP_K))
        if problems := self._problems():
            raise RequestError(" ".join(problems))

    def _wrong_numbers(self) -> list[str]:
        """Fields that are no numbers, or no integers; a sampler that met one in a step would fail for all requests."""
        return [
            f"{name} is {value!r}; it must be {'an integer' if name in _INTEGERS else 'a number'}."
            for name in (*_INTEGERS, *_FLOATS)
            if not isinstance(value := getattr(self, name), Integral if name in _INTEGERS else Real)
            and not (value is None and name in _OPTIONAL)
        ]

    def _wrong_lists(self) -> list[str]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        bad_words: object = self.bad_words
        bias: object = self.logit_bias
        checks = (
            (_all(str, stop), "stop must be a string or a list of strings."),
            (_all(Integral, self.stop_token_ids), "stop_token_ids must be a list of integers."),
            (not isinstance(bad_words, str) and _all(str, bad_words), "bad_words must be a list of strings."),
            (
                _all(Iterable, self.bad_word_ids) and all(_all(Integral, word) for word in self.bad_word_ids),
                "bad_word_ids must be a list of lists of integers.",
            ),
            (
                isinstance(bias, dict) and _all(Integral, bias) and _all(Real, bias.values()),
                "logit_bias must map integers to numbers.",
            ),
        )
        return [message for holds, message in checks if not holds]

    def _problems(self) -> list[str]:
        problems = [
            f"{name} is {getattr(self, name)}; it must be {words}."
            for name, (holds, words) in _RANGES.items()
            if getattr(self, name) is not None and not holds(getattr(self, name))
        ]
        if self.best_of is not None and self.best_of < self.n:
            problems.append(f"best_of is {self.best_of}; it must be at least n, {self.n}.")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            problems.append(f"min_tokens is {self.min_tokens}, more than max_tokens, {self.max_tokens}.")
        if not all(self.stop):
            problems.append("stop holds an empty string.")
        return problems


def _all(kind: type, values: object) -> bool:
    return isinstance(values, Iterable) and all(isinstance(value, kind) for value in values)


def _logprobs_in_range(value: int) -> bool:
    return 0 <= value <= MAX_LOGPROBS


_OPTIONAL = ("best_of", "seed", "max_tokens", "logprobs", "prompt_logprobs")
_INTEGERS = ("n", "top_k", "min_tokens", *_OPTIONAL)
_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")

# Field -> (test, words for the message). NaN fails every comparison and so every test.
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n": (lambda value: 1 <= value <= MAX_COMPLETIONS, f"between 1 and {MAX_COMPLETIONS}"),
    "best_of": (lambda value: value <= MAX_COMPLETIONS, f"at most {MAX_COMPLETIONS}"),
    "temperature": (lambda value: 0 <= value <= GREATEST, f"0 or more and at most {GREATEST}"),
    "top_k": (lambda value: value >= 0, "1 or more, or 0 (or -1) for off"),
    "top_p": (lambda value: LEAST <= value <= 1, "above 0 and at most 1"),
    "min_p": (lambda value: 0 <= value <= 1, "between 0 and 1"),
    "repetition_penalty": (lambda value: LEAST <= value <= GREATEST, f"above 0 and at most {GREATEST}"),
    "presence_penalty": (lambda value: abs(value) <= 2, "between -2 and 2"),
    "frequency_penalty": (lambda value: abs(value) <= 2, "between -2 and 2"),
    "max_tokens": (lambda value: value >= 1, "at least 1"),
    "min_tokens": (lambda value: value >= 0, "0 or more"),
    "logprobs": (_logprobs_in_range, f"between 0 and {MAX_LOGPROBS}"),
    "prompt_logprobs": (_logprobs_in_range, f"between 0 and {MAX_LOGPROBS}"),
}
