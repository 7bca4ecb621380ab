"""Engines of target tensorrt, as the registry knows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inflight.errors import EngineError
from inflight.runtime.executors.base import EngineLoader

if TYPE_CHECKING:
    from inflight.engine_format.manifest import EngineManifest
    from inflight.runtime.executors.tensorrt.executor import TensorRtExecutor


class TensorRtLoader(EngineLoader):
    memory_place = "gpu"

    def open(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> TensorRtExecutor:
        from inflight.runtime.executors.tensorrt.executor import TensorRtExecutor

        return TensorRtExecutor(directory, manifest, num_blocks)

    def free_memory(self) -> int:
        """Of the GPU."""
        from inflight.runtime.executors.tensorrt.device import free_memory

        return free_memory()

    def read_ahead(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        """The system maps the weights that lie beside the plans."""
        from inflight.runtime.executors.cpu.memory import map_ahead

        name = manifest["target_facts"]["weights_file"]
        if name is not None:
            map_ahead(directory / name, 0)

    def problem(self) -> str | None:
        from inflight.runtime.executors.tensorrt.device import require_gpu

        try:
            require_gpu()
        except EngineError as error:
            return error.message
        return None


LOADER = TensorRtLoader()
