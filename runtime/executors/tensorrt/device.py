"""Whether this machine has the GPU that an engine of target tensorrt is for."""

from __future__ import annotations

import inflight.machine.cuda as cuda
from inflight.errors import EngineError


def require_gpu() -> None:
    """Raises EngineError, saying what would work, when this machine has no usable NVIDIA GPU."""
    try:
        cuda.require_gpu()
    except EngineError as error:
        raise EngineError(
            f"The engine is for an NVIDIA GPU. {error.message}",
            f"{error.hint} Or build for this machine: inflight build-engine --target cpu",
        ) from None


def free_memory() -> int:
    """Free device memory in bytes."""
    require_gpu()
    free, _ = cuda.call("cudaMemGetInfo")
    return int(free)
