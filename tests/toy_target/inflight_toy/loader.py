"""The executor's side as `inflight.executors` finds it. It imports nothing of inflight.build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inflight.runtime.executors.base import EngineLoader

if TYPE_CHECKING:
    from inflight.engine_format.manifest import EngineManifest
    from inflight_toy.executor import ToyExecutor


class ToyLoader(EngineLoader):
    def open(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> ToyExecutor:
        from inflight_toy.executor import ToyExecutor

        return ToyExecutor(directory, manifest, num_blocks)


LOADER = ToyLoader()
