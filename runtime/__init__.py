"""Engines at work: loading, scheduling, sampling parameters, text, and the offline LLM class."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inflight.runtime.beam_search.search import BeamSearchParams
    from inflight.runtime.loading.load import KvCacheBudget
    from inflight.runtime.offline.llm import LLM
    from inflight.runtime.pooling.outputs import (
        ClassificationRequestOutput,
        EmbeddingRequestOutput,
        PoolingRequestOutput,
        ScoringRequestOutput,
    )
    from inflight.runtime.pooling.params import PoolingParams
    from inflight.runtime.request.outputs import CompletionOutput, Logprob, RequestOutput, ToolCall
    from inflight.runtime.sampling.params import SamplingParams
    from inflight.runtime.scheduler.scheduler import SchedulerConfig
    from inflight.runtime.structured.outputs import StructuredOutputs
    from inflight.runtime.structured.outputs import StructuredOutputs as GuidedDecodingParams
    from inflight.runtime.structured.outputs import StructuredOutputs as StructuredOutputsParams
    from inflight.runtime.text.chat.given_template import load_chat_template

__all__ = [
    "LLM",
    "BeamSearchParams",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "GuidedDecodingParams",
    "KvCacheBudget",
    "Logprob",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
    "ScoringRequestOutput",
    "StructuredOutputs",
    "StructuredOutputsParams",
    "ToolCall",
    "load_chat_template",
]

_HOMES = {
    "LLM": "offline.llm",
    "BeamSearchParams": "beam_search.search",
    "ClassificationRequestOutput": "pooling.outputs",
    "CompletionOutput": "request.outputs",
    "EmbeddingRequestOutput": "pooling.outputs",
    "KvCacheBudget": "kv_cache.budget",
    "Logprob": "request.outputs",
    "PoolingParams": "pooling.params",
    "PoolingRequestOutput": "pooling.outputs",
    "RequestOutput": "request.outputs",
    "SamplingParams": "sampling.params",
    "SchedulerConfig": "scheduler.scheduler",
    "ScoringRequestOutput": "pooling.outputs",
    "StructuredOutputs": "structured.outputs",
    "ToolCall": "request.outputs",
    "load_chat_template": "text.chat.given_template",
}

# Names of vLLM -> the name here.
_ALIASES = {"GuidedDecodingParams": "StructuredOutputs", "StructuredOutputsParams": "StructuredOutputs"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import inflight.runtime` itself loads nothing."""
    own = _ALIASES.get(name, name)
    if own not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[own]}"), own)
