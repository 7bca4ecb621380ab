"""The body of /, /generate and /generate_stream, and the completion that it asks for."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from inflight.runtime.sampling.watermark import Watermark
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.values import Body, Refused, refused_fields

# TGI's own.
_MAX_NEW_TOKENS = 100
_MAX_BEST_OF = 128

_REFUSED = {
    "adapter_id": Refused("adapters (LoRA)"),
}

# CompletionBody's names of what a client may have to mend, and TGI's.
NAMES = {
    "max_tokens": "max_new_tokens",
    "logprobs": "top_n_tokens",
    "response_format": "grammar",
    "truncate_prompt_tokens": "truncate",
    "prompt": "inputs",
    "n": "best_of",
}


class Grammar(Body):
    """`json_schema` has a name beside its schema. A schema that names properties and no type is of objects, as in TGI:
    by the specification it would allow anything that is none."""

    type: Literal["json", "regex", "json_schema"]
    value: dict[str, Any] | str

    def response_format(self) -> dict[str, Any]:
        if self.type == "json_schema":
            return {"type": "json_schema", "json_schema": self.value}
        value = self.value
        if isinstance(value, dict) and "properties" in value and "type" not in value:
            value = {"type": "object", **value}
        return {"type": self.type, "value": value}


if TYPE_CHECKING:
    _RefusingParameters = Body
else:
    _RefusingParameters = create_model("_RefusingParameters", __base__=Body, **refused_fields(_REFUSED))


class Parameters(_RefusingParameters):
    """Nothing is sampled unless one of the parameters of sampling asks for it, whatever the model's own defaults."""

    best_of: int | None = Field(None, ge=1, le=_MAX_BEST_OF)
    decoder_input_details: bool = False
    details: bool = False
    do_sample: bool = False
    frequency_penalty: float | None = None
    grammar: Grammar | None = None
    max_new_tokens: int = Field(_MAX_NEW_TOKENS, ge=1)
    repetition_penalty: float | None = None
    return_full_text: bool = False
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    temperature: float | None = Field(None, gt=0)
    top_k: int | None = Field(None, ge=1)
    top_n_tokens: int | None = Field(None, ge=0)
    top_p: float | None = Field(None, gt=0)
    truncate: int | None = Field(None, ge=1)
    typical_p: float | None = Field(None, gt=0)
    watermark: bool = False

    @property
    def samples(self) -> bool:
        warped = self.temperature not in (None, 1.0) or self.top_k is not None
        return self.do_sample or warped or any(each not in (None, 1.0) for each in (self.top_p, self.typical_p))

    def completion_fields(self, watermark: Watermark) -> dict[str, Any]:
        """In the names of CompletionBody; the seed is drawn here, so that the answer can say it. A stop string is part
        of the text, as TGI's is. `watermark`: the one that a text has if one is asked for."""
        return {
            "n": self.best_of or 1,
            "max_tokens": self.max_new_tokens,
            "temperature": (1.0 if self.temperature is None else self.temperature) if self.samples else 0.0,
            "top_k": self.top_k or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "min_p": 0.0,
            "typical_p": 1.0 if self.typical_p is None else self.typical_p,
            "repetition_penalty": 1.0 if self.repetition_penalty is None else self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "seed": secrets.randbits(63) if self.samples and self.seed is None else self.seed,
            "stop": self.stop,
            "include_stop_str_in_output": bool(self.stop),
            "truncate_prompt_tokens": self.truncate,
            "response_format": None if self.grammar is None else self.grammar.response_format(),
            "logprobs": self.top_n_tokens or 0,
            "prompt_logprobs": 0 if self.decoder_input_details else None,
            **({"watermark_gamma": watermark.gamma, "watermark_delta": watermark.delta} if self.watermark else {}),
        }


class GenerateBody(Body):
    """`stream` chooses between the two shapes where the path does not."""

    inputs: str
    parameters: Parameters = Parameters.model_validate({})
    stream: bool = False


def check(body: GenerateBody, stream: bool) -> None:
    """Raises ApiError (400) for parameters that contradict each other."""
    asked = body.parameters
    if not body.inputs:
        raise ApiError(400, "`inputs` cannot be empty", param="inputs")
    if (asked.best_of or 1) > 1:
        if not asked.samples:
            raise ApiError(400, "you must use sampling when `best_of` is > 1", param="parameters.best_of")
        if asked.seed is not None:
            raise ApiError(400, "`seed` must not be set when `best_of` > 1", param="parameters.seed")
        if stream:
            raise ApiError(400, "`best_of` != 1 is not supported when streaming tokens", param="parameters.best_of")
    if stream and asked.decoder_input_details:
        message = "`decoder_input_details` == true is not supported when streaming tokens"
        raise ApiError(400, message, param="parameters.decoder_input_details")
