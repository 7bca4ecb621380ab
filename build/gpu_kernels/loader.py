"""Artifacts on a GPU, through cuda.core: modules, device memory, launches. Neither triton nor a compiler is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.build.gpu_kernels.artifact import Artifact, ArtifactArgument
from inflight.errors import EngineError

Array = npt.NDArray[Any]

# Python's integers are addresses to a launch; every other argument says its width.
_SCALARS: Mapping[str, Callable[[Any], Any]] = {"i32": np.int32, "i64": np.int64, "fp32": np.float32}
_HINT = "Use a machine with an NVIDIA GPU of compute capability 8.0 or later and its driver."


class Gpu:
    """One device, made current for the calling thread, and one stream on it.

    Raises EngineError when cuda-python is not installed or no device can be used.
    """

    def __init__(self, device_id: int = 0) -> None:
        try:
            from cuda.core import Device
        except ImportError as error:
            raise EngineError("cuda-python is not installed.", 'pip install "inflight-llm[cuda]"') from error
        try:
            self.device = Device(device_id)
            self.device.set_current()
            self.stream = self.device.create_stream()
        except Exception as error:  # any error of the driver, or its absence
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise EngineError(f"No NVIDIA GPU can be used: {reason}", _HINT) from error
        major, minor = self.device.compute_capability
        self.sm = 10 * int(major) + int(minor)

    def load(self, artifact: Artifact) -> LoadedKernel:
        """Raises EngineError when the artifact is for another GPU generation, or asks for more than this one has."""
        if not runs_on(artifact.sm, self.sm):
            raise EngineError(
                f"{artifact.kernel} was compiled for sm_{artifact.sm}; this GPU ({self.device.name}) is sm_{self.sm}.",
                f"Compile it for {self.sm}.",
            )
        most = int(self.device.properties.max_shared_memory_per_block_optin)
        if artifact.shared_bytes > most:
            raise EngineError(
                f"{artifact.kernel}, compiled for sm_{artifact.sm}, asks for {artifact.shared_bytes} bytes of shared"
                f" memory; a block of this GPU ({self.device.name}) may have {most}.",
                f"Compile it for {self.sm}.",
            )
        return LoadedKernel(self, artifact)

    def upload(self, array: Array) -> DeviceArray:
        """A copy of a contiguous array in device memory."""
        copy = DeviceArray(self, array.nbytes)
        copy.write(array)
        return copy

    def synchronize(self) -> None:
        """Wait until the stream has finished everything queued on it. Raises errors of that work."""
        self.stream.sync()


def runs_on(compiled: int, device: int) -> bool:
    """Code for 80 runs on all of 8.x that have the shared memory; from 90 on, it is for its own generation alone."""
    return compiled == device or (compiled // 10 == device // 10 == 8 and compiled <= device)


class DeviceArray:
    """`nbytes` of device memory at `address`, a multiple of 256; at least one byte, so that there is an address."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self.nbytes = nbytes
        self._gpu = gpu
        self._buffer = gpu.device.allocate(max(nbytes, 1), stream=gpu.stream)
        self.address = int(self._buffer.handle)

    def write(self, array: Array) -> None:
        """Copy an array of `nbytes` to the device; the array may be reused at once."""
        self._copy("cuMemcpyHtoDAsync", self.address, array.ctypes.data, array)

    def read(self, array: Array) -> None:
        """Copy `nbytes` from the device into an array, after the work queued on the stream."""
        self._copy("cuMemcpyDtoHAsync", array.ctypes.data, self.address, array)

    def free(self) -> None:
        self._buffer.close(self._gpu.stream)

    def _copy(self, function: str, target: int, source: int, array: Array) -> None:
        if array.nbytes != self.nbytes or not array.flags.c_contiguous:
            raise ValueError(f"a contiguous array of {self.nbytes} bytes was expected, not one of {array.nbytes}")
        if self.nbytes:
            _driver(function, target, source, self.nbytes, self._gpu.stream.handle)
            self._gpu.synchronize()


class LoadedKernel:
    """An artifact in the memory of a GPU, ready to be launched any number of times."""

    def __init__(self, gpu: Gpu, artifact: Artifact) -> None:
        from cuda.bindings import driver
        from cuda.core import ObjectCode

        self.artifact = artifact
        self._stream = gpu.stream
        self._kernel = ObjectCode.from_cubin(artifact.cubin, name=artifact.kernel).get_kernel(artifact.entry)
        # By default a block gets no more than 48 KiB.
        limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _driver("cuKernelSetAttribute", limit, artifact.shared_bytes, self._kernel.handle, gpu.device.device_id)

    def launch(
        self, arguments: Mapping[str, int | float], sizes: Mapping[str, int], *, stream: Any | None = None
    ) -> None:
        """Queue one launch: addresses and numbers by the arguments' names, `sizes` for the grid.

        `stream` is another stream or a graph builder. A grid of no blocks is no launch. Raises KeyError for a missing
        argument or size, and ValueError for one that is not a multiple of what the kernel was promised.
        """
        from cuda.core import LaunchConfig, launch

        grid = self.artifact.grid_for(sizes)
        if 0 in grid:
            return
        values = [self._value(argument, arguments[argument.name]) for argument in self.artifact.arguments]
        config = LaunchConfig(grid=grid, block=self.artifact.threads, shmem_size=self.artifact.shared_bytes)
        launch(self._stream if stream is None else stream, config, self._kernel, *values, 0, 0)

    def _value(self, argument: ArtifactArgument, value: int | float) -> Any:
        if argument.alignment > 1 and int(value) % argument.alignment:
            raise ValueError(
                f"{argument.name} of {self.artifact.kernel} must be a multiple of {argument.alignment}, not {value}"
            )
        scalar = _SCALARS.get(argument.type)
        return int(value) if scalar is None else scalar(value)


def _driver(function: str, *arguments: Any) -> None:
    """One call of the CUDA driver. Raises EngineError with its own words."""
    from cuda.bindings import driver

    (status,) = getattr(driver, function)(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise EngineError(f"CUDA's {function} failed: {status.name}.")
