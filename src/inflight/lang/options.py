"""The arguments of `gen` and `run`, and the sampling parameters that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from inflight.errors import InflightError
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.structured.outputs import StructuredOutputs

# What a text of a dtype is. A number ends at the first blank behind it, which is no part of it.
EXPRESSIONS = {
    "int": r"[-+]?[0-9]+[ \n]*",
    "float": r"[-+]?[0-9]*\.?[0-9]+[ \n]*",
    "bool": r"(True|False)",
    "str": r'"[\w\d\s]*"',
}
_NUMBERS = ("int", "float")


@dataclass(frozen=True, slots=True)
class GenOptions:
    """What is None is not given. The values of `DEFAULTS` are those of `run`; no default of the model's own
    generation_config.json counts, so that a program means the same with every model."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | tuple[str, ...] | None = None
    stop_token_ids: list[int] | tuple[int, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    ignore_eos: bool | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None
    dtype: type | str | None = None
    regex: str | None = None
    json_schema: str | Mapping[str, Any] | None = None
    seed: int | None = None

    def over(self, defaults: GenOptions) -> GenOptions:
        """These, with what is not given taken from `defaults`."""
        given = {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}
        return replace(defaults, **given)

    @property
    def shows_nothing(self) -> bool:
        """Whether max_tokens is 0: one token is computed, for its log probabilities, and none is shown."""
        return self.max_tokens == 0

    @property
    def num_top(self) -> int:
        """How many of the likeliest tokens are wanted beside each."""
        return self.top_logprobs_num or 0

    @property
    def scores_prompt(self) -> bool:
        """Whether tokens of the prompt are to be scored."""
        return bool(self.return_logprob) and self.logprob_start_len is not None and self.logprob_start_len >= 0

    def sampling_params(self) -> SamplingParams:
        """Raises RequestError for a value out of its range, InflightError for contradictory ones."""
        dtype, stop = self._dtype(), [self.stop] if isinstance(self.stop, str) else list(self.stop or ())
        names = ("min_tokens", "n", "stop_token_ids", "temperature", "top_p", "top_k", "min_p", "frequency_penalty")
        given = {
            name: value
            for name in (*names, "presence_penalty", "ignore_eos", "seed")
            if (value := getattr(self, name)) is not None
        }
        return SamplingParams(
            **given,
            max_tokens=1 if self.shows_nothing else self.max_tokens,
            stop=[*stop, " ", "\n"] if dtype in _NUMBERS else stop,
            structured_outputs=self._structure(dtype),
            logprobs=self.num_top if self.return_logprob else None,
            prompt_logprobs=0 if self.scores_prompt else None,
            prompt_logprobs_start=(self.logprob_start_len or 0) if self.scores_prompt else 0,
        )

    def _dtype(self) -> str | None:
        if self.dtype is None:
            return None
        name = self.dtype if isinstance(self.dtype, str) else self.dtype.__name__
        if name not in EXPRESSIONS:
            raise InflightError(f"dtype is {name}; it must be one of {', '.join(EXPRESSIONS)}.")
        return name

    def _structure(self, dtype: str | None) -> StructuredOutputs | None:
        asked = {"regex": self.regex, "json_schema": self.json_schema, "dtype": dtype}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise InflightError(f"{' and '.join(given)} both say what the text must be; give one of them.")
        if dtype is not None:
            return StructuredOutputs(regex=EXPRESSIONS[dtype])
        if self.json_schema is not None:
            return StructuredOutputs(json=self.json_schema)
        return None if self.regex is None else StructuredOutputs(regex=self.regex)


DEFAULTS = GenOptions(max_tokens=128, temperature=1.0)
