"""Engines at work: loading, scheduling, sampling parameters, text, and the offline LLM class."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inflight.runtime.llm import LLM
    from inflight.runtime.load import KvCacheBudget
    from inflight.runtime.outputs import CompletionOutput, Logprob, RequestOutput
    from inflight.runtime.sampling_params import SamplingParams
    from inflight.runtime.scheduler import SchedulerConfig

__all__ = [
    "LLM",
    "CompletionOutput",
    "KvCacheBudget",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
]

_HOMES = {
    "LLM": "llm",
    "CompletionOutput": "outputs",
    "KvCacheBudget": "load",
    "Logprob": "outputs",
    "RequestOutput": "outputs",
    "SamplingParams": "sampling_params",
    "SchedulerConfig": "scheduler",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import inflight.runtime` itself loads nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
