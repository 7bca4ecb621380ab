"""Normalizes the forms of prompts: token ids and, if it was given, the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from inflight.errors import RequestError, placed
from inflight.runtime.request.given import GivenPrompt, given_prompts
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.tokenizer import Tokenizer

# Text; token ids; {"prompt": text} (or "text") or {"prompt_token_ids": ids}, with "cache_salt" where the prefix cache
# is apart.
Prompt = str | Sequence[int] | Mapping[str, Any]
# Text, or {"text": text}, where token ids are of no use.
Text = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt as the engine takes it; `text` is None when it came as token ids. `cache_salt` is its own, which comes
    before that of the sampling parameters."""

    text: str | None
    token_ids: tuple[int, ...]
    cache_salt: str | None = None


def read_prompts(prompts: Prompt | Sequence[Prompt], tokenizer: Tokenizer) -> list[PromptTokens]:
    """One prompt or a list of them. Raises RequestError, with its place, when one is of no known form or has no
    tokens."""
    return [_read_prompt(prompt, tokenizer) for prompt in given_prompts(prompts)]


def match_params(params: SamplingParams | Sequence[SamplingParams], num_prompts: int) -> list[SamplingParams]:
    """One SamplingParams per prompt, which their owner can no longer change. Raises RequestError for what is none, and
    when a list has another length than the prompts."""
    if isinstance(params, SamplingParams):
        return [copy(params)] * num_prompts
    given: Any = params
    if not isinstance(given, (list, tuple)) or not all(isinstance(each, SamplingParams) for each in given):
        raise RequestError("sampling_params must be SamplingParams, or a list of one for each prompt.")
    if len(params) != num_prompts:
        raise RequestError(
            f"There are {num_prompts} prompts but {len(params)} sampling parameters.",
            "Give one SamplingParams for all, or one for each.",
        )
    return [copy(each) for each in params]


def _read_prompt(prompt: GivenPrompt, tokenizer: Tokenizer) -> PromptTokens:
    with placed(prompt.place):
        ids = prompt.token_ids
        if ids is None:
            ids = tuple(tokenizer.encode(prompt.text or ""))
        if not ids:
            raise RequestError("A prompt has no tokens.", "Give it at least one character or one token id.")
    return PromptTokens(prompt.text, ids, prompt.cache_salt)
