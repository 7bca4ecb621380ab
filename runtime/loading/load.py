"""From an engine directory to an Executor: read, verify, size the cache, open. Nothing compiles here."""

from __future__ import annotations

import logging
from pathlib import Path

from inflight.errors import EngineError
from inflight.machine.resources import usable_cores
from inflight.runtime.executors.base import Executor
from inflight.runtime.executors.registry import find_loader
from inflight.runtime.kv_cache.budget import KvCacheBudget, plan_num_blocks
from inflight.runtime.loading.engine_directory import read_engine_directory
from inflight.runtime.loading.memory_table import memory_table
from inflight.runtime.loading.verification import Verification, verify_files

# With far more threads than cores a step takes minutes: each thread waits for all others at every operator.
_FEW_THREADS = 64

_log = logging.getLogger(__name__)

__all__ = ["KvCacheBudget", "load_engine", "memory_table"]


def load_engine(
    path: Path,
    *,
    threads: int | None = None,
    kv_cache: KvCacheBudget | None = None,
    verification: Verification | None = None,
) -> Executor:
    """Verify the engine at `path` and open it with the executor of its target.

    threads: None takes every core that the process may use. kv_cache: None takes 0.9 of the free memory; it is never
    more than a full batch can use. verification: see verify_files. Raises EngineError when the engine is damaged, of
    another version, for another machine, or too large.
    """
    engine = read_engine_directory(path)
    verify_files(engine, verification)
    manifest = engine.manifest
    if manifest.world_size != 1:
        raise EngineError(
            f"{path} has {manifest.world_size} ranks; this version runs engines of one rank.",
            "Convert the model again with --tp-size 1 --pp-size 1 and build that.",
        )
    if threads is not None and threads < 1:
        raise EngineError(f"--threads is {threads}; it must be at least 1.")
    if threads is not None and threads > max(_FEW_THREADS, 4 * usable_cores()):
        raise EngineError(f"--threads is {threads}; this process may use {usable_cores()} cores.")
    loader = find_loader(manifest.target)
    if loader.caution is not None:
        _log.warning("%s: %s", path, loader.caution)
    num_blocks = plan_num_blocks(manifest, kv_cache or KvCacheBudget(), loader.free_memory(), path)
    return loader.open(path, manifest, num_blocks, threads or usable_cores())
