"""Engines of target reference, as the registry knows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inflight.runtime.executors.base import EngineLoader

if TYPE_CHECKING:
    from inflight.engine_format.manifest import EngineManifest
    from inflight.runtime.executors.reference.executor import ReferenceExecutor


class ReferenceLoader(EngineLoader):
    def open(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> ReferenceExecutor:
        from inflight.runtime.executors.reference.executor import ReferenceExecutor

        return ReferenceExecutor(directory, manifest, num_blocks, threads)

    def problem(self) -> str | None:
        from importlib.util import find_spec

        from inflight.extras import install_hint

        return None if find_spec("onnxruntime") else f"onnxruntime is not installed ({install_hint('reference')})"


LOADER = ReferenceLoader()
