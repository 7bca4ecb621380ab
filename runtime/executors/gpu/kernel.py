"""Compiled kernels on a GPU: artifacts loaded, packed and launched. Neither triton nor a compiler is needed."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Mapping
from typing import Any

from inflight.engine_format.gpu_artifact import Artifact, ArtifactArgument
from inflight.errors import EngineError
from inflight.machine.cuda import call, cuda_driver, cudart
from inflight.runtime.executors.gpu.device import Device

# What is no number is an address.
_NUMBERS: Mapping[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


def runs_on(compiled: int, device: int) -> bool:
    """Code for 80 runs on all of 8.x that have the shared memory; from 90 on, it is for its own generation alone."""
    return compiled == device or (compiled // 10 == device // 10 == 8 and compiled <= device)


def choose_generation(compiled: Collection[int], device: int, name: str) -> int:
    """The one of `compiled` whose code a GPU of generation `device` runs. Raises EngineError where there is none."""
    able = [sm for sm in compiled if runs_on(sm, device)]
    if not able:
        listed = ", ".join(f"sm_{sm}" for sm in compiled)
        raise EngineError(
            f"The engine has code for {listed}; this GPU ({name}) is sm_{device}.", f"Build it with --sm {device}."
        )
    return max(able)


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

    def pack(self, arguments: Mapping[str, int | float], numbers: Mapping[str, str]) -> PackedKernel:
        """Addresses and numbers by the arguments' names; `numbers`: those that a launch gives, by its names for them.
        Raises KeyError for a missing argument, and ValueError for one that is not a multiple of what the kernel was
        promised."""
        return PackedKernel(self._kernel, self._device.stream, self.artifact, arguments, numbers)

    def launch(self, arguments: Mapping[str, int | float], sizes: Mapping[str, int]) -> None:
        """Queue one launch on the device's stream: addresses and numbers by the arguments' names, `sizes` for the grid.
        Raises as pack() and PackedKernel.launch()."""
        self.pack(arguments, {}).launch(sizes)

    def free(self) -> None:
        """Take the code off the GPU; nothing of it may be running."""
        call("cudaLibraryUnload", self._library)


class PackedKernel:
    """A kernel and its arguments, in the form in which the driver takes them, but for the numbers of a launch.

    A kernel that waits for the launch before it is started while that ends (programmatic dependent launch): its blocks
    are on their processors by then.
    """

    def __init__(
        self,
        kernel: int,
        stream: int,
        artifact: Artifact,
        arguments: Mapping[str, int | float],
        numbers: Mapping[str, str],
    ) -> None:
        self._kernel = kernel
        self._artifact = artifact
        values = {each.name: 0 if each.name in numbers else arguments[each.name] for each in artifact.arguments}
        cells = {each.name: _cell(each, values[each.name], artifact) for each in artifact.arguments}
        given = [each for each in artifact.arguments if each.name in numbers]
        self._numbers = [(each, cells[each.name], numbers[each.name]) for each in given]
        # Two pointers follow the arguments: see Artifact.
        self._cells = [*cells.values(), ctypes.c_void_p(0), ctypes.c_void_p(0)]
        self._pointers = (ctypes.c_void_p * len(self._cells))(*(ctypes.addressof(cell) for cell in self._cells))
        self._config = _launch_config(artifact, stream)

    def launch(self, sizes: Mapping[str, int]) -> None:
        """Queue the launch on the device's stream. A grid of no blocks is no launch. Raises KeyError for a missing
        size, ValueError as LoadedKernel.pack()."""
        grid = self._artifact.grid_for(sizes)
        if 0 in grid:
            return
        for argument, cell, name in self._numbers:
            cell.value = _checked(argument, sizes[name], self._artifact)
        self._config.gridDimX, self._config.gridDimY, self._config.gridDimZ = grid
        call("cuLaunchKernelEx", self._config, self._kernel, ctypes.addressof(self._pointers), 0)


def _launch_config(artifact: Artifact, stream: int) -> Any:
    driver = cuda_driver()
    config = driver.CUlaunchConfig()
    config.blockDimX, config.blockDimY, config.blockDimZ = artifact.threads, 1, 1
    config.sharedMemBytes = artifact.shared_bytes
    config.hStream = stream
    if artifact.waits:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs, config.numAttrs = [attribute], 1
    return config


def _cell(argument: ArtifactArgument, value: int | float, artifact: Artifact) -> Any:
    return _NUMBERS.get(argument.type, ctypes.c_void_p)(_checked(argument, value, artifact))


def _checked(argument: ArtifactArgument, value: int | float, artifact: Artifact) -> int | float:
    if argument.alignment > 1 and int(value) % argument.alignment:
        name, kernel = argument.name, artifact.kernel
        raise ValueError(f"{name} of {kernel} must be a multiple of {argument.alignment}, not {value}")
    return float(value) if argument.type == "fp32" else int(value)
