"""The engine that the parameters of config.pbtxt name."""

from __future__ import annotations

from pathlib import Path

from inflight.runtime.executors.base import Executor
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.loading.load import KvCacheBudget, load_engine
from inflight.triton_backend.wire.triton_api import ModelSettings


def load_executor(settings: ModelSettings) -> Executor:
    """Raises EngineError where it cannot be loaded."""
    fraction = settings.number("kv_cache_free_gpu_mem_fraction")
    budget = KvCacheBudget(
        bytes=settings.integer("kv_cache_bytes"),
        tokens=settings.integer("max_tokens_in_paged_kv_cache"),
        **({} if fraction is None else {"fraction": fraction}),
    )
    return load_engine(Path(settings.required("gpt_model_path")), threads=settings.integer("threads"), kv_cache=budget)


def kv_offload(settings: ModelSettings) -> KvOffload | None:
    """Where KV cache blocks are kept; None: nowhere. Raises EngineError for a limit without a directory."""
    return KvOffload.of(settings.text("kv_offload_dir"), settings.integer("kv_offload_bytes"))
