"""Engines of target cuda, as the registry knows them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inflight.errors import EngineError
from inflight.runtime.executors.base import EngineLoader

if TYPE_CHECKING:
    from inflight.engine_format.manifest import EngineManifest
    from inflight.runtime.executors.cuda.executor import CudaExecutor


class CudaLoader(EngineLoader):
    memory_place = "gpu"
    caution = "Target cuda has never run on a GPU: its launches were tested under an interpreter alone."

    def open(self, directory: Path, manifest: EngineManifest, num_blocks: int, threads: int) -> CudaExecutor:
        from inflight.runtime.executors.cuda.executor import CudaExecutor
        from inflight.runtime.executors.cuda.gpu_backend import GpuBackend

        return CudaExecutor(directory, manifest, num_blocks, GpuBackend)

    def free_memory(self) -> int:
        """Of the GPU."""
        from inflight.machine.cuda import call, require_gpu

        require_gpu()
        free, _ = call("cudaMemGetInfo")
        return int(free)

    def problem(self) -> str | None:
        from inflight.machine.cuda import require_gpu

        try:
            require_gpu()
        except EngineError as error:
            return error.message
        return None


LOADER = CudaLoader()
