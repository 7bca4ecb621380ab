"""What the bodies of chat and completions have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Strict, create_model

from inflight.sampling_parameters import MAX_LOGPROBS, SAMPLING_PARAMETERS
from inflight.triton_backend.openai.protocol.refusals import REFUSED
from inflight.triton_backend.openai.protocol.structure import ResponseFormat
from inflight.triton_backend.openai.protocol.values import Body, refused_fields


class StreamOptions(Body):
    """`continuous_usage_stats` puts the usage so far into every chunk, once include_usage is set.

    `include_obfuscation` true is OpenAI's default, which clients send that spell out every default. The padding hides
    the lengths of tokens from who sees encrypted traffic, and this server encrypts nothing: it has no effect.
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool | None = None

    @property
    def asks(self) -> bool:
        """Whether anything is asked for."""
        return self.include_usage or self.continuous_usage_stats


SAMPLING_FIELDS = tuple(row for row in SAMPLING_PARAMETERS if row.openai)
# The keys of a JSON object are strings, so those of logit_bias are numbers by their spelling alone.
_TYPES: dict[str, Any] = {
    "integer": int,
    "number": float,
    "flag": bool,
    "text": str,
    "strings": list[str],
    "ids": list[int],
    "bias": dict[Annotated[int, Strict(False)], float],
}

if TYPE_CHECKING:
    # Its fields are read by the names in SAMPLING_FIELDS.
    _SamplingBody = Body
else:
    _SamplingBody = create_model(
        "_SamplingBody",
        __base__=Body,
        **refused_fields(REFUSED),
        **{
            row.name: (bool, row.default) if row.kind == "flag" else (_TYPES[row.kind] | None, None)
            for row in SAMPLING_FIELDS
        },
    )


def _stop_strings(value: Any) -> Any:
    """As a list; an empty string stops nothing."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        raise ValueError("Input should be a string or a list of strings")
    return [each for each in values if each != ""]


class GenerationBody(_SamplingBody):
    """What both endpoints take: the parameters of SAMPLING_FIELDS, and these. None: not given, so that the model's
    default applies.

    `user`, `metadata`, `store`, `session_id`, `safety_identifier` and the keys of the prompt cache label a request for
    whoever keeps it or caches it, and change no answer. `request_id` becomes part of the answer's id. From
    `response_format` to `structural_tag`: the structured output, see read_structure.
    """

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    stop: Annotated[list[str], BeforeValidator(_stop_strings)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | dict[str, Any] | None = None
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    return_token_ids: bool = False
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    truncation_side: Literal["left", "right"] = "left"
    priority: int = Field(0, ge=-(1 << 31), lt=1 << 31)
    request_id: str | None = Field(None, max_length=256)
    session_id: str | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool = False
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def wants_usage_so_far(self) -> bool:
        """Whether each chunk of a stream has the usage so far."""
        return self.wants_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats
