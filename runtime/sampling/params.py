"""Sampling parameters of a request, under the names of vLLM's SamplingParams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from numbers import Integral, Real
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.structured.outputs import KINDS, StructuredOutputs
from inflight.runtime.structured.reasoning import ReasoningFirst
from inflight.sampling_parameters import LEAST, SAMPLING_PARAMETERS, to_float32


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request. Raises RequestError on a value of another type or outside its range.

    Numbers are checked, and used, in float32; None means "not set" where it is allowed. In which order the sampler
    applies them is said in docs/formats/engine.md.

    n, best_of: how many completions to return, and to compute (best_of >= n; None: n); the best by cumulative log
        probability win. Neither may be more than 1024.
    temperature: divides the logits; 0 is greedy.
    top_k: keep the k likeliest tokens; 0 or -1 is off.
    top_p: keep the likeliest tokens until their probabilities sum to top_p, in [0, 1] (Holtzman et al. 2020). 0 keeps
        the likeliest alone where no top_k is set, and is off where one is, as in TensorRT-LLM; it reads as top_k 1, or
        the top_k that is set, and top_p 1.
    min_p: keep tokens of at least min_p times the greatest probability, in [0, 1] (Nguyen et al. 2024).
    typical_p: keep the tokens whose surprise, -log p, is nearest to the entropy, until their probabilities sum to
        typical_p, in (0, 1] (Meister et al. 2022); 1 is off.
    top_n_sigma: keep the tokens whose logit is at most so many standard deviations of all logits below the greatest
        (Tang et al. 2024), before the temperature and so at any; 0 (or -1, llama.cpp's default) is off.
    repetition_penalty: above 0, over prompt and output (Keskar et al. 2019, "CTRL"); 1 is off.
    presence_penalty, frequency_penalty: -2 to 2, over the output alone, as OpenAI defines them; 0 is off.
    use_beam_search, length_penalty: the likeliest sequences by beam search, in place of sampling: of best_of (or n)
        beams the best n; length_penalty, -100 to 100, is that of BeamSearchParams. The rest must be at its default.
    watermark_delta, watermark_gamma: a watermark (Kirchenbauer et al. 2023): watermark_delta, 0 (off) to 100, is added
        to the logits of tokens that the one before favours, a share watermark_gamma, 0.01 to 0.99, of the vocabulary.
        `inflight detect-watermark` finds it.
    seed: None draws one; the same seed gives the same tokens whatever else is running.
    max_tokens: the most tokens to generate; None: as many as the engine has room for.
    min_tokens: tokens that would end the sequence are forbidden before so many.
    stop: strings that end the text; include_stop_str_in_output keeps them in it. Special tokens go by their text; an
        empty string asks for nothing.
    stop_token_ids: tokens that end it, beside the model's own end tokens, which ignore_eos disregards.
    bad_words, bad_word_ids: strings, and sequences of token ids, that are never completed.
    logit_bias: token id to a number that is added to its logit; minus infinity forbids the token.
    logprobs, prompt_logprobs: how many alternatives to report beside each token of the output, or the prompt, at most
        64; None: no log probabilities.
    prompt_logprobs_start: the first prompt token, from 0, for which prompt_logprobs reports; those before it may come
        from the prefix cache.
    skip_special_tokens: leave special tokens out of the text.
    cache_salt: only requests with the same salt share the prefix cache; None (or an empty string): those without one.
    structured_outputs: a StructuredOutputs, or a mapping of its fields, to which the text conforms.
    reasoning: a ReasoningFirst: the text conforms from the end of its reasoning on, which may have a budget.

    A field may be assigned to, which is checked as a new record is; requests that run keep what they were given.

    Further names of vLLM, SGLang and TensorRT-LLM are those of these parameters, change nothing, or are refused with
    the reason: docs/migration.md.
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
    # Behind the others, so that arguments which are given by position keep their places.
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    structured_outputs: StructuredOutputs | None = None
    prompt_logprobs_start: int = 0
    cache_salt: str | None = None
    reasoning: ReasoningFirst | None = None
    use_beam_search: bool = False
    length_penalty: float = 1.0
    watermark_delta: float = 0.0
    watermark_gamma: float = 0.5

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        outputs: object = self.structured_outputs
        if isinstance(outputs, Mapping):
            set_field(self, "structured_outputs", StructuredOutputs.of(outputs))
        values = [(row, getattr(self, row.name)) for row in SAMPLING_PARAMETERS]
        if problems := [problem for row, value in values if (problem := row.too_many(value))]:
            raise RequestError(" ".join(problems))
        wrong_types = [problem for row, value in values if (problem := row.wrong_type(value))]
        if problems := [*wrong_types, *self._wrong_lists()]:
            raise RequestError(" ".join(problems))
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        set_field(self, "stop", tuple(stop for stop in stops if stop))
        set_field(self, "stop_token_ids", tuple(self.stop_token_ids))
        set_field(self, "cache_salt", self.cache_salt or None)
        set_field(self, "bad_words", tuple(self.bad_words))
        set_field(self, "bad_word_ids", tuple(tuple(word) for word in self.bad_word_ids))
        out_of_range = [problem for row, value in values if (problem := row.out_of_range(value))]
        # A value that is wrong by itself contradicts nothing: one mistake is one message.
        if problems := out_of_range or self._contradictions():
            raise RequestError(" ".join(problems))
        for row, value in values:
            if row.also_off is not None:
                set_field(self, row.name, row.normalized(value))
        if to_float32(self.top_p) < LEAST:
            set_field(self, "top_p", 1.0)
            set_field(self, "top_k", self.top_k or 1)

    @property
    def num_sequences(self) -> int:
        """How many sequences come out of the engine."""
        return self.n if self.use_beam_search else self.best_of or self.n

    @property
    def has_grammar(self) -> bool:
        """Whether the tokens follow a grammar, which has to be compiled first."""
        return self.structured_outputs is not None or self.reasoning is not None

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
            (
                self.structured_outputs is None or isinstance(self.structured_outputs, StructuredOutputs),
                f"structured_outputs must be a StructuredOutputs, or a mapping of {', '.join(KINDS)}.",
            ),
            (self.cache_salt is None or _is_text(self.cache_salt), "cache_salt must be a string of whole characters."),
            (
                self.reasoning is None or isinstance(self.reasoning, ReasoningFirst),
                "reasoning must be a ReasoningFirst.",
            ),
        )
        return [message for holds, message in checks if not holds]

    def _contradictions(self) -> list[str]:
        problems = []
        if self.best_of is not None and self.best_of < self.n:
            problems.append(f"best_of is {self.best_of}; it must be at least n, {self.n}.")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            problems.append(f"min_tokens is {self.min_tokens}, more than max_tokens, {self.max_tokens}.")
        if self.length_penalty != 1 and not self.use_beam_search:
            problems.append(f"length_penalty is {self.length_penalty}; it is of beam search: set use_beam_search.")
        return problems


def _with_foreign_names() -> None:
    """Let SamplingParams take names of other servers, and None where vLLM has it for nothing."""
    generated = SamplingParams.__init__
    own = frozenset(SamplingParams.__dataclass_fields__)
    empty = ("stop", "stop_token_ids", "bad_words", "bad_word_ids", "logit_bias")

    @wraps(generated)
    def init(self: SamplingParams, *args: Any, **given: Any) -> None:
        if not given.keys() <= own:
            from inflight.migration.keywords import read_keywords
            from inflight.migration.sources import VLLM_SAMPLING

            given = read_keywords(given, VLLM_SAMPLING, own)
            outputs = given.get("structured_outputs")
            if outputs is not None and not isinstance(outputs, (Mapping, StructuredOutputs)):
                given["structured_outputs"] = {
                    kind: value for kind in KINDS if (value := getattr(outputs, kind, None)) is not None
                }
        generated(
            self, *args, **{name: value for name, value in given.items() if value is not None or name not in empty}
        )

    SamplingParams.__init__ = init  # type: ignore[method-assign]


_with_foreign_names()


def _with_assignment() -> None:
    """Let a field be assigned to, as programs for vLLM do: an assignment is a new record with another value, so that
    what is refused there is refused here. The class stays frozen for whoever shares its records."""
    set_field = object.__setattr__

    def assign(self: SamplingParams, name: str, value: Any) -> None:
        if name not in SamplingParams.__dataclass_fields__:
            raise AttributeError(f"SamplingParams has no parameter {name}.")
        changed = replace(self, **{name: value})
        for each in SamplingParams.__dataclass_fields__:
            set_field(self, each, getattr(changed, each))

    SamplingParams.__setattr__ = assign  # type: ignore[assignment,method-assign]


_with_assignment()


def params_over_defaults(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> SamplingParams:
    """What `given` asks for, over a model's `defaults`; of these, names that are no parameters are left out, and all
    where a beam search is asked for, which samples nothing.

    Raises RequestError as SamplingParams does.
    """
    known = {name: value for name, value in defaults.items() if name in SamplingParams.__dataclass_fields__}
    if given.get("use_beam_search"):
        known.clear()
    if given.get("top_p") == 0:
        # Who asks for the likeliest token has not asked for a top_k beside it.
        known.pop("top_k", None)
    return SamplingParams(**{**known, **given})


def _is_text(value: object) -> bool:
    """Whether it is a string that can be encoded: JSON can spell half of a surrogate pair."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _all(kind: type, values: object) -> bool:
    return isinstance(values, Iterable) and all(isinstance(value, kind) for value in values)
