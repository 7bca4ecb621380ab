"""Engines at work: loading, scheduling, sampling parameters, text, and the offline LLM class."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inflight.runtime.loading.load import KvCacheBudget
    from inflight.runtime.offline.llm import LLM
    from inflight.runtime.pooling.outputs import EmbeddingRequestOutput, ScoringRequestOutput
    from inflight.runtime.request.outputs import CompletionOutput, Logprob, RequestOutput, ToolCall
    from inflight.runtime.sampling.params import SamplingParams
    from inflight.runtime.scheduler.scheduler import SchedulerConfig
    from inflight.runtime.structured.outputs import StructuredOutputs

__all__ = [
    "LLM",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "KvCacheBudget",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
    "ScoringRequestOutput",
    "StructuredOutputs",
    "ToolCall",
]

_HOMES = {
    "LLM": "offline.llm",
    "CompletionOutput": "request.outputs",
    "EmbeddingRequestOutput": "pooling.outputs",
    "KvCacheBudget": "kv_cache.budget",
    "Logprob": "request.outputs",
    "RequestOutput": "request.outputs",
    "SamplingParams": "sampling.params",
    "SchedulerConfig": "scheduler.scheduler",
    "ScoringRequestOutput": "pooling.outputs",
    "StructuredOutputs": "structured.outputs",
    "ToolCall": "request.outputs",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import inflight.runtime` itself loads nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
