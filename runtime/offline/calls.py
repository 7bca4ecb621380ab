"""Arguments of LLM's methods in the forms of vLLM's older versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inflight.errors import RequestError


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
    foreign_call(names)
    if ids is None:
        if prompts is None:
            raise RequestError("generate needs prompts.", 'Give text, token ids, or {"prompt_token_ids": [...]}.')
        return prompts
    listed = [ids] if ids and all(isinstance(each, int) for each in ids) else list(ids)
    texts = [prompts] if isinstance(prompts, str) else list(prompts or [None] * len(listed))
    if len(texts) != len(listed):
        raise RequestError(f"There are {len(texts)} prompts but {len(listed)} lists of token ids.")
    return [
        {"prompt_token_ids": each} if text is None else {"prompt": text, "prompt_token_ids": each}
        for text, each in zip(texts, listed, strict=True)
    ]


def foreign_call(names: Mapping[str, Any]) -> None:
    """Raises ForeignNameError for arguments of a call that cannot be honoured."""
    if names:
        from inflight.migration.keywords import read_keywords
        from inflight.migration.sources import VLLM_CALLS

        read_keywords(names, VLLM_CALLS, ())
