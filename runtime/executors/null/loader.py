"""Engines of target null, as the registry knows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inflight.runtime.executors.base import EngineLoader

if TYPE_CHECKING:
    from inflight.engine_format.manifest import EngineManifest
    from inflight.runtime.executors.null.executor import NullExecutor


class NullLoader(EngineLoader):
    def open(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> NullExecutor:
        from inflight.runtime.executors.null.executor import NullExecutor

        return NullExecutor(manifest, num_blocks)


LOADER = NullLoader()
