"""The body of SGLang's POST /generate, and the completion that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from inflight.sampling_parameters import MAX_LOGPROBS
from inflight.triton_backend.openai.errors import ApiError
from inflight.triton_backend.openai.protocol.values import Body, Refused, refused_fields

_MAX_NEW_TOKENS = 128
_MEDIA = "images, audio or video"
_REFUSED: dict[str, Refused] = {
    "image_data": Refused(_MEDIA),
    "audio_data": Refused(_MEDIA),
    "video_data": Refused(_MEDIA),
    "input_embeds": Refused("prompts of embeddings"),
    "lora_path": Refused("LoRA adapters"),
    "token_ids_logprob": Refused("log probabilities of tokens of the client's choice"),
    "return_hidden_states": Refused("hidden states"),
    "custom_logit_processor": Refused("logits processors of the client"),
    "session_params": Refused("sessions; what prompts begin with in common is cached"),
    "background": Refused("answers that nobody waits for"),
}
# Names of sampling_params, and CompletionBody's; the others are the same.
_RENAMED = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "sampling_seed": "seed",
    "no_stop_trim": "include_stop_str_in_output",
}
NAMES = {own: f"sampling_params.{name}" for name, own in _RENAMED.items()} | {
    "prompt": "text",
    "logprobs": "top_logprobs_num",
}

if TYPE_CHECKING:
    _Refusing = Body
else:
    _Refusing = create_model("_Refusing", __base__=Body, **refused_fields(_REFUSED))


class SglangBody(_Refusing):
    """`rid` and `log_metrics` label a request and change no answer."""

    text: str | list[str] | None = None
    input_ids: list[int] | list[list[int]] | None = None
    sampling_params: dict[str, Any] = Field(default_factory=dict)
    return_logprob: bool = False
    logprob_start_len: int = -1
    top_logprobs_num: int = Field(0, ge=0, le=MAX_LOGPROBS)
    return_text_in_logprobs: bool = False
    stream: bool = False
    rid: str | None = None
    log_metrics: bool | None = None

    @property
    def scores_prompt(self) -> bool:
        return self.return_logprob and self.logprob_start_len >= 0

    def is_one(self, count: int) -> bool:
        """Whether the answer is an object, and no list of `count` of them."""
        given: Any = self.input_ids if self.text is None else self.text
        return count == 1 and (isinstance(given, str) or not isinstance(given[0], (str, list)))

    def completion_fields(self) -> dict[str, Any]:
        """In the names of CompletionBody. Raises ApiError (400) without a prompt, or with two."""
        if (self.text is None) == (self.input_ids is None):
            raise ApiError(400, "Give text or input_ids.", param="text")
        given: Mapping[str, Any] = {"max_new_tokens": _MAX_NEW_TOKENS, **self.sampling_params}
        return {
            **{_RENAMED.get(name, name): value for name, value in given.items()},
            "prompt": self.input_ids if self.text is None else self.text,
            "stream": self.stream,
            "logprobs": self.top_logprobs_num if self.return_logprob else None,
            "prompt_logprobs": 0 if self.scores_prompt else None,
            "prompt_logprobs_start": self.logprob_start_len if self.scores_prompt else None,
        }
