"""Methods and attributes of vLLM's class LLM that are not here: why, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from inflight.errors import RequestError
from inflight.migration import reasons as why

_CACHE = "blocks are found by their tokens, so that none is ever wrong. enable_prefix_caching=False keeps none."
_PROFILE = "inflight bench latency ENGINE --profile says where the time goes."
_WEIGHTS = "an engine's weights are those of its files. Build another engine, and open that."
_QUEUE = "generate takes all prompts at once; a server takes them one by one: inflight serve."

METHODS: Mapping[str, str] = {
    "get_metrics": "stats() has the engine's counts, and metrics of each output its times.",
    "reset_prefix_cache": _CACHE,
    "reset_mm_cache": why.IMAGES,
    "sleep": why.SLEEPING,
    "wake_up": why.SLEEPING,
    "start_profile": _PROFILE,
    "stop_profile": _PROFILE,
    "collective_rpc": why.PLUGINS,
    "apply_model": why.PLUGINS,
    "llm_engine": _QUEUE,
    "enqueue": _QUEUE,
    "wait_for_completion": _QUEUE,
    "set_tokenizer": why.OTHER_TOKENIZER,
    "preprocess_chat": "llm.tokenizer.encode_chat(messages) gives the tokens of a conversation.",
    "preprocess_cmpl": "llm.tokenizer.encode(text) gives the tokens of a text.",
    "reward": "models that judge one text are not there; score(query, documents) compares pairs.",
    "get_world_size": why.RANKS,
    "init_weight_transfer_engine": _WEIGHTS,
    "update_weights": _WEIGHTS,
}


class MissingMethodError(RequestError, AttributeError):
    """A method of another class by this name that is not here."""


def missing(name: str) -> NoReturn:
    """For `__getattr__` of LLM. Raises MissingMethodError for a name of vLLM's class, AttributeError for another."""
    if name in METHODS:
        raise MissingMethodError(f"LLM has no {name}: {METHODS[name]}")
    raise AttributeError(f"LLM has no attribute {name!r}")
