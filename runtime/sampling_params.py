"""What a request asks of the sampler, in the names that vLLM's users know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from inflight.errors import RequestError

MAX_LOGPROBS = 64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request. Raises RequestError on a value outside its range.

    n: how many completions to return; best_of (>= n): how many to compute, the best by cumulative log probability win.
    temperature: 0 is greedy. top_k: 0 or -1 is off. top_p in (0, 1]. min_p in [0, 1].
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
        set_field(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        set_field(self, "stop_token_ids", tuple(self.stop_token_ids))
        set_field(self, "bad_words", tuple(self.bad_words))
        set_field(self, "bad_word_ids", tuple(tuple(word) for word in self.bad_word_ids))
        set_field(self, "top_k", 0 if self.top_k == -1 else self.top_k)
        for problem in self._problems():
            raise RequestError(problem)

    def _problems(self) -> list[str]:
        checks = [
            (self.n >= 1, f"n is {self.n}; it must be at least 1."),
            (self.best_of is None or self.best_of >= self.n, f"best_of is {self.best_of}; it must be at least n, {self.n}."),
            (self.temperature >= 0 and math.isfinite(self.temperature), f"temperature is {self.temperature}; it must be 0 or more."),
            (self.top_k >= 0, f"top_k is {self.top_k}; it must be 1 or more, or 0 (or -1) for off."),
            (0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be above 0 and at most 1."),
            (0 <= self.min_p <= 1, f"min_p is {self.min_p}; it must be between 0 and 1."),
            (self.repetition_penalty > 0, f"repetition_penalty is {self.repetition_penalty}; it must be above 0."),
            (abs(self.presence_penalty) <= 2, f"presence_penalty is {self.presence_penalty}; it must be between -2 and 2."),
            (abs(self.frequency_penalty) <= 2, f"frequency_penalty is {self.frequency_penalty}; it must be between -2 and 2."),
            (self.max_tokens is None or self.max_tokens >= 1, f"max_tokens is {self.max_tokens}; it must be at least 1."),
            (self.min_tokens >= 0, f"min_tokens is {self.min_tokens}; it must be 0 or more."),
            (
                self.max_tokens is None or self.min_tokens <= self.max_tokens,
                f"min_tokens is {self.min_tokens}, more than max_tokens, {self.max_tokens}.",
            ),
            (all(self.stop), "stop holds an empty string."),
            *(
                (value is None or 0 <= value <= MAX_LOGPROBS, f"{name} is {value}; it must be between 0 and {MAX_LOGPROBS}.")
                for name, value in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs))
            ),
        ]
        return [text for holds, text in checks if not holds]
