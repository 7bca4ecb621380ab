"""Launches on a GPU of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from inflight.engine_format.gpu_artifact import Artifact
from inflight.errors import EngineError
from inflight.runtime.executors.gpu.device import CapturedGraph, Device, Mark, copy_bytes
from inflight.runtime.executors.gpu.kernel import LoadedKernel, PackedKernel, choose_generation, load_kernel

Array = npt.NDArray[Any]


class GpuBackend:
    """See Backend. The thread that steps need not be the one that opened the engine: every call makes the device
    current first. Raises EngineError where there is no GPU, or none that the engine has code for.
    """

    def __init__(self, kernels: Mapping[int, list[Artifact]]) -> None:
        self._device: Device | None = Device()
        self._kernels: list[LoadedKernel] = []
        self._graphs: list[CapturedGraph] = []
        device = self._device
        try:
            for artifact in kernels[choose_generation(kernels, device.sm, device.name)]:
                self._kernels.append(load_kernel(device, artifact))
        except BaseException:
            self.close()
            raise

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> int:
        return self._current().allocate(nbytes, zeroed=zeroed).address

    def host(self, nbytes: int) -> Array:
        return self._current().host_memory(nbytes)

    def write(self, address: int, array: Array) -> None:
        copy_bytes(self._current().stream, address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def read(self, address: int, array: Array) -> None:
        copy_bytes(self._current().stream, array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost")

    def constant(self, kernel: int, name: str) -> int:
        return int(self._kernels[kernel].artifact.constants[name])

    def pack(self, kernel: int, arguments: Mapping[str, int], numbers: Mapping[str, str]) -> PackedKernel:
        return self._kernels[kernel].pack(arguments, numbers)

    def record(self, queue: Callable[[], None]) -> CapturedGraph:
        graph = self._current().capture(queue)
        self._graphs.append(graph)
        return graph

    def mark(self) -> Mark:
        return self._current().mark()

    def wait_for(self, mark: Mark) -> None:
        self._current()
        mark.wait()

    def wait(self) -> None:
        self._current().wait()

    def close(self) -> None:
        """What a GPU that was lost refuses to take back is left to the end of the process."""
        device, self._device = self._device, None
        if device is None:
            return
        while self._graphs:
            device.give_back(self._graphs.pop().free)
        while self._kernels:
            device.give_back(self._kernels.pop().free)
        device.close()

    def _current(self) -> Device:
        if self._device is None:
            raise EngineError("The engine is closed.")
        self._device.make_current()
        return self._device
