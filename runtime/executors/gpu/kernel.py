"""Compiled kernels on a GPU: artifacts loaded and launched. Neither triton nor a compiler is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from inflight.engine_format.gpu_artifact import Artifact, ArtifactArgument
from inflight.errors import EngineError
from inflight.machine.cuda import call, cudart
from inflight.runtime.executors.gpu.device import Device

# What is no number is an address.
_NUMBERS: Mapping[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


def runs_on(compiled: int, device: int) -> bool:
    """Code for 80 runs on all of 8.x that have the shared memory; from 90 on, it is for its own generation alone."""
    return compiled == device or (compiled // 10 == device // 10 == 8 and compiled <= device)


def load_kernel(device: Device, artifact: Artifact) -> LoadedKernel:
    """Raises EngineError when the artifact is for another GPU generation, or asks for more than this one has."""
    if not runs_on(artifact.sm, device.sm):
        raise EngineError(
            f"{artifact.kernel} was compiled for sm_{artifact.sm}; this GPU ({device.name}) is sm_{device.sm}.",
            f"Compile it for {device.sm}.",
        )
    most = device.attribute("cudaDevAttrMaxSharedMemoryPerBlockOptin")
    if artifact.shared_bytes > most:
        raise EngineError(
            f"{artifact.kernel}, compiled for sm_{artifact.sm}, asks for {artifact.shared_bytes} bytes of shared"
            f" memory; a block of this GPU ({device.name}) may have {most}.",
            f"Compile it for {device.sm}.",
        )
    return LoadedKernel(device, artifact)


class LoadedKernel:
    """An artifact in the memory of a GPU, ready to be launched any number of times."""

    def __init__(self, device: Device, artifact: Artifact) -> None:
        self.artifact = artifact
        self._device = device
        self._library = call("cudaLibraryLoadData", artifact.cubin, None, None, 0, None, None, 0)
        self._kernel = int(call("cudaLibraryGetKernel", self._library, artifact.entry.encode()))
        # Without being asked, a block gets no more than 48 KiB.
        limit = cudart().cudaFuncAttribute.cudaFuncAttributeMaxDynamicSharedMemorySize
        call("cudaKernelSetAttributeForDevice", self._kernel, limit, artifact.shared_bytes, device.index)
        # Two pointers follow the arguments: see Artifact.
        types = [_NUMBERS.get(argument.type, ctypes.c_void_p) for argument in artifact.arguments]
        self._types = (*types, ctypes.c_void_p, ctypes.c_void_p)

    def launch(self, arguments: Mapping[str, int | float], sizes: Mapping[str, int]) -> None:
        """Queue one launch on the device's stream: addresses and numbers by the arguments' names, `sizes` for the grid.

        A grid of no blocks is no launch. Raises KeyError for a missing argument or size, and ValueError for one that is
        not a multiple of what the kernel was promised.
        """
        grid = self.artifact.grid_for(sizes)
        if 0 in grid:
            return
        values = [self._checked(argument, arguments[argument.name]) for argument in self.artifact.arguments]
        shape = (*grid, self.artifact.threads, 1, 1, self.artifact.shared_bytes)
        call("cuLaunchKernel", self._kernel, *shape, self._device.stream, ((*values, 0, 0), self._types), 0)

    def free(self) -> None:
        """Take the code off the GPU; nothing of it may be running."""
        call("cudaLibraryUnload", self._library)

    def _checked(self, argument: ArtifactArgument, value: int | float) -> int | float:
        if argument.alignment > 1 and int(value) % argument.alignment:
            raise ValueError(
                f"{argument.name} of {self.artifact.kernel} must be a multiple of {argument.alignment}, not {value}"
            )
        return float(value) if argument.type == "fp32" else int(value)
