"""Arguments of LLM's methods in the forms of vLLM's older versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inflight.errors import RequestError
from inflight.runtime.request.given import given_prompts


def at_position(use_tqdm: Any, names: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """The third argument of generate: use_tqdm, or the token ids that stood there once."""
    if isinstance(use_tqdm, (list, tuple)):
        return True, {**names, "prompt_token_ids": use_tqdm}
    return bool(use_tqdm), dict(names)


def prompts_of(prompts: Any, names: dict[str, Any]) -> Any:
    """The prompts of a call: `prompts`, or prompt_token_ids, beside which prompts are the texts that these ids are of.

    Raises RequestError where there is neither, and ForeignNameError for other names.
    """
    ids = names.pop("prompt_token_ids", None)
    foreign_call("generate", names)
    if ids is None:
        if prompts is None:
            raise RequestError("generate needs prompts.", 'Give text, token ids, or {"prompt_token_ids": [...]}.')
        return prompts
    listed = [each.token_ids for each in given_prompts(ids, "prompt_token_ids")]
    if None in listed:
        raise RequestError("prompt_token_ids must be lists of token ids.", "Give text as prompts.")
    texts = [None] * len(listed) if not prompts else [each.text for each in given_prompts(prompts)]
    if len(texts) != len(listed):
        raise RequestError(f"There are {len(texts)} prompts but {len(listed)} lists of token ids.")
    return [
        {"prompt_token_ids": each} if text is None else {"prompt": text, "prompt_token_ids": each}
        for text, each in zip(texts, listed, strict=True)
    ]


def foreign_call(method: str, names: Mapping[str, Any]) -> None:
    """Raises ForeignNameError for arguments of a call of LLM's `method` that cannot be honoured."""
    if names:
        from inflight.migration.keywords import read_keywords
        from inflight.migration.sources import VLLM_CALLS

        read_keywords(names, replace(VLLM_CALLS, tool=f"vllm.LLM.{method}"), ())
