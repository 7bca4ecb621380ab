"""Normalizes the forms of prompts: token ids and, if it was given, the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.sampling.params import SamplingParams
from inflight.runtime.text.tokenizer import Tokenizer

# Text; token ids; {"prompt": text} or {"prompt_token_ids": ids}, with "cache_salt" where the prefix cache is apart.
Prompt = str | Sequence[int] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt as the engine takes it; `text` is None when it came as token ids. `cache_salt` is its own, which comes
    before that of the sampling parameters."""

    text: str | None
    token_ids: tuple[int, ...]
    cache_salt: str | None = None


def read_prompts(prompts: Prompt | Sequence[Prompt], tokenizer: Tokenizer) -> list[PromptTokens]:
    """One prompt or a list of them. Raises RequestError when one is of no known form or has no tokens."""
    return [_read_prompt(prompt, tokenizer) for prompt in as_list(prompts)]


def match_params(params: SamplingParams | Sequence[SamplingParams], num_prompts: int) -> list[SamplingParams]:
    """One SamplingParams per prompt, which their owner can no longer change. Raises RequestError when a list has
    another length than the prompts."""
    if isinstance(params, SamplingParams):
        return [copy(params)] * num_prompts
    if len(params) != num_prompts:
        raise RequestError(
            f"There are {num_prompts} prompts but {len(params)} sampling parameters.",
            "Give one SamplingParams for all, or one for each.",
        )
    return [copy(each) for each in params]


def as_list(prompts: Any) -> list[Any]:
    """One prompt, or a list of them, as a list."""
    if isinstance(prompts, (str, Mapping)) or (prompts and all(isinstance(item, int) for item in prompts)):
        return [prompts]
    return list(prompts)


def _read_prompt(prompt: Any, tokenizer: Tokenizer) -> PromptTokens:
    if isinstance(prompt, Mapping):
        salt = prompt.get("cache_salt")
        if "prompt_token_ids" in prompt:
            return replace(_from_ids(prompt["prompt_token_ids"], prompt.get("prompt")), cache_salt=salt)
        text = prompt.get("prompt")
        if isinstance(text, str):
            return replace(_from_ids(tokenizer.encode(text), text), cache_salt=salt)
        prompt = text
    if isinstance(prompt, str):
        return _from_ids(tokenizer.encode(prompt), prompt)
    if isinstance(prompt, Sequence):
        return _from_ids(prompt, None)
    raise RequestError(
        f"A prompt is {type(prompt).__name__}.",
        'A prompt is a string, a list of token ids, {"prompt": "..."} or {"prompt_token_ids": [...]}.',
    )


def _from_ids(token_ids: Any, text: str | None) -> PromptTokens:
    ids = tuple(token_ids)
    if not all(isinstance(token_id, int) for token_id in ids):
        raise RequestError("A prompt's token ids must be integers.")
    if not ids:
        raise RequestError("A prompt has no tokens.", "Give it at least one character or one token id.")
    return PromptTokens(text, ids)
