"""The body of POST /v1/completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, create_model

from inflight.sampling_parameters import MAX_LOGPROBS
from inflight.triton_backend.openai.protocol.generation import GenerationBody
from inflight.triton_backend.openai.protocol.refusals import REFUSED_IN_COMPLETIONS
from inflight.triton_backend.openai.protocol.values import TEXTS_OR_IDS, described, refused_fields

if TYPE_CHECKING:
    _RefusingCompletion = GenerationBody
else:
    _RefusingCompletion = create_model(
        "_RefusingCompletion", __base__=GenerationBody, **refused_fields(REFUSED_IN_COMPLETIONS)
    )


class CompletionBody(_RefusingCompletion):
    """POST /v1/completions. `use_beam_search`, `length_penalty`: as vLLM's, of the `n` likeliest texts."""

    prompt: Annotated[str | list[int] | list[str] | list[list[int]], described(TEXTS_OR_IDS)]
    max_tokens: int | None = 16
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False
    best_of: int | None = Field(None, ge=1, le=128)
    add_special_tokens: bool = True
    use_beam_search: bool = False
    length_penalty: float | None = None

    @property
    def beams(self) -> dict[str, Any]:
        """The parameters of the search that is asked for."""
        if not self.use_beam_search:
            return {}
        return {"use_beam_search": True, "length_penalty": 1.0 if self.length_penalty is None else self.length_penalty}

    @property
    def scores_only(self) -> bool:
        """Whether the prompt is wanted back, with its log probabilities, and nothing after it."""
        return self.echo and self.max_tokens == 0

    def is_listed(self) -> bool:
        """Whether `prompt` is a list of prompts, and no single one."""
        return isinstance(self.prompt, list) and not all(isinstance(item, int) for item in self.prompt)

    def prompts(self) -> list[str | list[int]]:
        """The prompts, in order; each is text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and not self.is_listed():
            return [[item for item in self.prompt if isinstance(item, int)]]
        return [item for item in self.prompt if not isinstance(item, int)]
