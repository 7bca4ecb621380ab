"""The table of sampling parameters: what each is, may be and is called, in one row.

SamplingParams, its checks, the inputs of the Triton models and both directions of their wire, the OpenAI bodies, the
options of `inflight generate` and `chat`, the defaults taken from generation_config.json and the sampler's record all
read this table. docs/extending/adding_a_sampling_parameter.md says what a new row needs beside it.

Samplers compute in float32, and a request behind Triton arrives in it. A number is therefore rounded to float32 before
its range is checked, so that a value is served or refused alike wherever the request comes in.
"""

from __future__ import annotations

import math
import struct
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

MAX_LOGPROBS = 64
# Of one request: each is a sequence of its own, so that one request could fill the memory with them.
MAX_COMPLETIONS = 1024
# Lists are far longer than clients send, and short enough that what is within them takes milliseconds.
MAX_STOPS, MAX_STOP_TOKEN_IDS, MAX_BAD_WORDS = 128, 1024, 256
# A bad word has up to three spellings in token ids.
MAX_BAD_WORD_IDS = 4 * MAX_BAD_WORDS
# Of all stop strings of a request together, and of all its bad words.
MAX_WORD_CHARACTERS = 8192
MOST_LENGTH_PENALTY = 100
INT32_MAX = (1 << 31) - 1

Kind = Literal["integer", "number", "flag", "text", "strings", "ids", "words", "bias", "structure"]

_FLOAT32 = struct.Struct("f")


def to_float32(value: Any) -> float:
    """The float32 that is nearest to a real number; infinite beyond float32's range, and NaN for NaN."""
    try:
        rounded: float = _FLOAT32.unpack(_FLOAT32.pack(float(value)))[0]
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    return rounded


# A smaller number may be 0 to a sampler in float32, and a greater one infinite.
LEAST, GREATEST = to_float32(1e-37), to_float32(1e38)


class TritonInput(NamedTuple):
    """An input of the Triton models.

    `name` is its name in `tensorrt_llm`, `text_name` in `ensemble` and `tensorrt_llm_bls` ("": they have none); `dtype`
    and `dims` are those of config.pbtxt. `contract`: TensorRT-LLM's models declare it; the others are inflight's own.
    """

    name: str
    text_name: str
    dtype: str
    dims: str = "1"
    contract: bool = False


class CliOption(NamedTuple):
    """The option of `inflight generate`, and of `inflight chat` with `chat`.

    `panel` is its heading in the help, "" the first one. `flag` "" stands for the parameter's name, with dashes.
    `inverted`: the flag turns off what is on by default.
    """

    help: str
    panel: str = "Sampling"
    flag: str = ""
    metavar: str | None = None
    chat: bool = False
    inverted: bool = False


class SamplingParameter(NamedTuple):
    """One row.

    `optional`: None is allowed. `least` and `greatest` bound integers and numbers, in float32 for the latter, and
    `expected` says so in words. `also_off`: a second value that turns the parameter off, as `default` does.
    `saturates`: more than `greatest` is allowed and means the same.
    `most`: how many entries a list may have, 0 for any number; `most_characters`: those of all its strings together.
    `model_default`: whether generation_config.json may set the default: with do_sample, or always.
    `openai`: a field of this name in the OpenAI bodies. `record`: a field of this name in RowSampling and in the
    record `inflight_sampling` of compiled engines.
    `triton`: on the wire of token ids; of several names of one input the last is the one that inflight sends.
    max_tokens, stop and bad words have none here: they go through `preprocessing` beside the prompt, in other forms.
    Nor have structured_outputs, two strings there and several names in the OpenAI bodies and options, and reasoning,
    one string, which follows from the model and the request.
    """

    name: str
    kind: Kind
    default: Any
    optional: bool = False
    least: float = -math.inf
    greatest: float = math.inf
    expected: str = ""
    also_off: float | None = None
    saturates: bool = False
    most: int = 0
    most_characters: int = 0
    model_default: Literal["", "sampling", "always"] = ""
    openai: bool = True
    triton: tuple[TritonInput, ...] = ()
    cli: CliOption | None = None
    record: bool = False

    def rounded(self, value: Any) -> Any:
        """What the sampler computes with: a float that float32 holds, or an int."""
        return to_float32(value) if self.kind == "number" else int(value)

    def normalized(self, value: Any) -> Any:
        """`value` itself, or what stands for it in its one spelling: `default` for off, `greatest` for more."""
        if self.also_off is not None and self.rounded(value) == self.also_off:
            return self.default
        return min(value, int(self.greatest)) if self.saturates else value

    def wrong_type(self, value: Any) -> str | None:
        """What to say of an integer or number that is none."""
        if self.kind not in ("integer", "number") or (value is None and self.optional):
            return None
        kind, words = (Integral, "an integer") if self.kind == "integer" else (Real, "a number")
        return None if isinstance(value, kind) else f"{self.name} is {value!r}; it must be {words}."

    def too_many(self, value: Any) -> str | None:
        """What to say of a list that is too long, or whose strings are."""
        if not self.most or not isinstance(value, (str, list, tuple)):
            return None
        value = [value] if isinstance(value, str) else value
        if len(value) > self.most:
            return f"{self.name} has {len(value)} entries; at most {self.most} are possible."
        characters = sum(len(each) for each in value if self.most_characters and isinstance(each, str))
        if characters > self.most_characters:
            return f"{self.name} has {characters} characters in all; at most {self.most_characters} are possible."
        return None

    def out_of_range(self, value: Any) -> str | None:
        """What to say of an integer or number outside its range. NaN is outside every range."""
        if not self.expected or (value is None and self.optional):
            return None
        if self.least <= self.rounded(self.normalized(value)) <= self.greatest:
            return None
        return f"{self.name} is {value}; it must be {self.expected}."


def _contract(dtype: str, *names: str, text: str = "") -> tuple[TritonInput, ...]:
    """Inputs of TensorRT-LLM's models; `text`: the name where it differs in the models that speak text."""
    return tuple(TritonInput(name, text or name, dtype, contract=True) for name in names)


Row = SamplingParameter

# In the order in which options are listed and the record of compiled engines has its fields.
# fmt: off
SAMPLING_PARAMETERS: tuple[SamplingParameter, ...] = (
    Row(
        "n", "integer", 1, least=1, greatest=MAX_COMPLETIONS, expected=f"between 1 and {MAX_COMPLETIONS}",
        triton=_contract("INT32", "num_return_sequences"),
    ),
    Row(
        "best_of", "integer", None, optional=True, greatest=MAX_COMPLETIONS, expected=f"at most {MAX_COMPLETIONS}",
        openai=False, cli=CliOption("Completions to compute; the n likeliest are kept.", panel=""),
    ),
    Row(
        "temperature", "number", 1.0, least=0, greatest=GREATEST, expected="0 or more and at most 1e+38",
        model_default="sampling", record=True,
        triton=_contract("FP32", "temperature"), cli=CliOption("Divides the logits; 0 = greedy.", chat=True),
    ),
    Row(
        "top_k", "integer", 0,
        least=0, greatest=INT32_MAX, expected="1 or more, or 0 (or -1) for off", also_off=-1, saturates=True,
        model_default="sampling", record=True, triton=_contract("INT32", "runtime_top_k", text="top_k"),
        cli=CliOption("Sample from the K most likely tokens; 0 = all.", chat=True),
    ),
    Row(
        "top_p", "number", 1.0, least=0, greatest=1, expected="between 0 and 1",
        model_default="sampling", record=True, triton=_contract("FP32", "runtime_top_p", text="top_p"),
        cli=CliOption("Nucleus sampling: the likeliest tokens that sum to P; 1 = all, 0 = one.", chat=True),
    ),
    Row(
        "min_p", "number", 0.0, least=0, greatest=1, expected="between 0 and 1",
        model_default="sampling", record=True, triton=(TritonInput("min_p", "min_p", "FP32"),),
        cli=CliOption("Drop tokens below P times the likeliest's probability; 0 = off.", chat=True),
    ),
    Row(
        "typical_p", "number", 1.0, least=LEAST, greatest=1, expected="above 0 and at most 1",
        model_default="sampling", record=True, triton=(TritonInput("typical_p", "typical_p", "FP32"),),
        cli=CliOption("Locally typical sampling: the most typical tokens that sum to P; 1 = off.", chat=True),
    ),
    Row(
        "top_n_sigma", "number", 0.0,
        least=0, greatest=GREATEST, expected="above 0 and at most 1e+38, or 0 (or -1) for off", also_off=-1,
        record=True, triton=(TritonInput("top_n_sigma", "top_n_sigma", "FP32"),),
        cli=CliOption("Drop tokens whose logit is over N standard deviations below the greatest; 0 = off.", chat=True),
    ),
    Row(
        # The one default that also bends greedy decoding.
        "repetition_penalty", "number", 1.0,
        least=LEAST, greatest=GREATEST, expected="above 0 and at most 1e+38",
        model_default="always", record=True, triton=_contract("FP32", "repetition_penalty"),
        cli=CliOption("Above 1: fewer repetitions of prompt and output; 1 = off.", chat=True),
    ),
    Row(
        "presence_penalty", "number", 0.0, least=-2, greatest=2, expected="between -2 and 2", record=True,
        triton=_contract("FP32", "presence_penalty"),
        cli=CliOption("-2 to 2: subtracted for each token in the output.", chat=True),
    ),
    Row(
        "frequency_penalty", "number", 0.0, least=-2, greatest=2, expected="between -2 and 2", record=True,
        triton=_contract("FP32", "frequency_penalty"),
        cli=CliOption("-2 to 2: subtracted for each time it is in the output.", chat=True),
    ),
    Row(
        "use_beam_search", "flag", False, openai=False,
        cli=CliOption("The likeliest texts, as many as --n says, by beam search; nothing is sampled."),
    ),
    Row(
        "length_penalty", "number", 1.0, least=-MOST_LENGTH_PENALTY, greatest=MOST_LENGTH_PENALTY,
        expected="between -100 and 100", openai=False,
        cli=CliOption("Of beam search: above 0 longer texts win more often, below 0 shorter ones."),
    ),
    Row(
        "watermark_delta", "number", 0.0, least=0, greatest=100, expected="between 0 and 100; 0 is off", record=True,
        triton=(TritonInput("watermark_delta", "watermark_delta", "FP32"),),
        cli=CliOption("Watermark: added to the logits of tokens that the one before favours; 0 = off.", chat=True),
    ),
    Row(
        "watermark_gamma", "number", 0.5,
        least=to_float32(0.01), greatest=to_float32(0.99), expected="between 0.01 and 0.99", record=True,
        triton=(TritonInput("watermark_gamma", "watermark_gamma", "FP32"),),
        cli=CliOption("Share of the vocabulary that a watermark favours; 0.5 unless given.", chat=True),
    ),
    Row(
        "seed", "integer", None, optional=True, triton=_contract("UINT64", "random_seed", "seed"),
        cli=CliOption("Seed of sampling; the same seed gives the same tokens.", chat=True),
    ),
    Row("max_tokens", "integer", 16, optional=True, least=1, expected="at least 1", openai=False),
    Row(
        "min_tokens", "integer", 0, least=0, expected="0 or more",
        triton=_contract("INT32", "min_length", "min_tokens"),
        cli=CliOption("Minimum tokens to generate.", "Ending"),
    ),
    Row(
        "stop", "strings", (), most=MAX_STOPS, most_characters=MAX_WORD_CHARACTERS,
        cli=CliOption("Stop at this string; repeatable.", "Ending", "--stop", chat=True),
    ),
    Row(
        "stop_token_ids", "ids", (), most=MAX_STOP_TOKEN_IDS,
        triton=(TritonInput("stop_token_ids", "", "INT32", "-1"),),
        cli=CliOption("Stop at this token; repeatable.", "Ending", "--stop-token-id"),
    ),
    Row(
        "ignore_eos", "flag", False, triton=(TritonInput("ignore_eos", "ignore_eos", "BOOL"),),
        cli=CliOption("Do not stop at end tokens.", "Ending"),
    ),
    Row("include_stop_str_in_output", "flag", False, cli=CliOption("Keep the stop string in the text.", "Ending")),
    Row(
        "bad_words", "strings", (), most=MAX_BAD_WORDS, most_characters=MAX_WORD_CHARACTERS,
        cli=CliOption("Word not to generate; repeatable.", flag="--bad-word"),
    ),
    Row("bad_word_ids", "words", (), openai=False, most=MAX_BAD_WORD_IDS),
    Row(
        "logit_bias", "bias", {},
        triton=(TritonInput("logit_bias_ids", "", "INT32", "-1"), TritonInput("logit_bias_values", "", "FP32", "-1")),
        cli=CliOption("Add VALUE to the logit of token ID.", metavar="ID=VALUE"),
    ),
    Row(
        "logprobs", "integer", None, optional=True, least=0, greatest=MAX_LOGPROBS,
        expected=f"between 0 and {MAX_LOGPROBS}", openai=False, triton=(TritonInput("num_logprobs", "", "INT32"),),
        cli=CliOption("With --json: log probabilities of each token and N others.", panel=""),
    ),
    Row(
        "prompt_logprobs", "integer", None, optional=True, least=0, greatest=MAX_LOGPROBS,
        expected=f"between 0 and {MAX_LOGPROBS}", openai=False,
        triton=(TritonInput("num_prompt_logprobs", "", "INT32"),),
        cli=CliOption("With --json: the same for prompt tokens.", panel=""),
    ),
    Row(
        "prompt_logprobs_start", "integer", 0, least=0, greatest=INT32_MAX, expected="0 or more",
        triton=(TritonInput("prompt_logprobs_start", "", "INT32"),),
    ),
    Row(
        "skip_special_tokens", "flag", True,
        cli=CliOption("Keep special tokens in the text.", "Ending", "--keep-special-tokens", inverted=True),
    ),
    Row("structured_outputs", "structure", None, optional=True, openai=False),
    Row(
        "cache_salt", "text", None, optional=True, most=1, most_characters=1024,
        triton=(TritonInput("cache_salt", "cache_salt", "STRING"),),
    ),
    Row("reasoning", "structure", None, optional=True, openai=False),
)
# fmt: on

# The parameters that the sampler itself reads, in the order of `inflight_sampling`: integers before floats.
RECORD_PARAMETERS = tuple(sorted((row for row in SAMPLING_PARAMETERS if row.record), key=lambda row: row.kind))
