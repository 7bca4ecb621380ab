"""Engines of the null target whose blocks leave the cache, and what they are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inflight.runtime.engine.core import EngineCore
from inflight.runtime.executors.null.executor import NullExecutor, null_manifest
from inflight.runtime.kv_cache.offload.config import KvOffload
from inflight.runtime.request.request import Request
from inflight.runtime.sampling.params import SamplingParams

BLOCK, PROMPT = 4, 33
# Of the null target: 12 bytes and 4 for each token.
COPY = 12 + 4 * BLOCK


def new_core(
    place: Path | KvOffload | None, num_blocks: int = 16, most_bytes: int = 1 << 20, **limits: Any
) -> EngineCore:
    manifest = null_manifest(tokens_per_block=BLOCK, max_seq_len=48, **limits)
    offload = KvOffload(place, most_bytes) if isinstance(place, Path) else place
    return EngineCore(NullExecutor(manifest, num_blocks), offload=offload)


def ask(core: EngineCore, prompt: tuple[int, ...], **params: Any) -> tuple[list[int], int]:
    """The answer, and how many tokens of the prompt were found."""
    core.add_request(Request("it", prompt, SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, **params)))
    tokens: list[int] = []
    found = -1
    while core.has_unfinished():
        for delta in core.step():
            tokens += delta.token_ids
            if delta.metrics is not None:
                found = delta.metrics.cached_tokens
    return tokens, found
