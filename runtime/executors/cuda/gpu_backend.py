"""Launches on a GPU of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from inflight.engine_format.gpu_artifact import Artifact
from inflight.errors import EngineError
from inflight.machine.cuda import call, cudart
from inflight.runtime.executors.gpu.device import Device
from inflight.runtime.executors.gpu.kernel import LoadedKernel, load_kernel, runs_on

Array = npt.NDArray[Any]


class GpuBackend:
    """See Backend. The thread that steps need not be the one that opened the engine: every call makes the device
    current first. Raises EngineError where there is no GPU, or none that the engine has code for.
    """

    def __init__(self, kernels: Mapping[int, list[Artifact]]) -> None:
        self._device: Device | None = Device()
        self._kernels: list[LoadedKernel] = []
        device = self._device
        able = [sm for sm in kernels if runs_on(sm, device.sm)]
        if not able:
            name, generation = device.name, device.sm
            listed = ", ".join(f"sm_{sm}" for sm in kernels)
            self.close()
            raise EngineError(
                f"The engine has code for {listed}; this GPU ({name}) is sm_{generation}.",
                f"Build it with --sm {generation}.",
            )
        try:
            for artifact in kernels[max(able)]:
                self._kernels.append(load_kernel(device, artifact))
        except BaseException:
            self.close()
            raise

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> int:
        return self._current().allocate(nbytes, zeroed=zeroed).address

    def write(self, address: int, array: Array) -> None:
        self._copy(address, array.ctypes.data, array.nbytes, "cudaMemcpyHostToDevice")

    def read(self, address: int, array: Array) -> None:
        self._copy(array.ctypes.data, address, array.nbytes, "cudaMemcpyDeviceToHost")

    def constant(self, kernel: int, name: str) -> int:
        return int(self._kernels[kernel].artifact.constants[name])

    def launch(self, kernel: int, arguments: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        self._current()
        self._kernels[kernel].launch(arguments, sizes)

    def wait(self) -> None:
        self._current().wait()

    def close(self) -> None:
        if self._device is None:
            return
        self._device.make_current()
        while self._kernels:
            self._kernels.pop().free()
        self._device.close()
        self._device = None

    def _current(self) -> Device:
        if self._device is None:
            raise EngineError("The engine is closed.")
        self._device.make_current()
        return self._device

    def _copy(self, target: int, source: int, nbytes: int, kind: str) -> None:
        stream = self._current().stream
        if nbytes:
            call("cudaMemcpyAsync", target, source, nbytes, getattr(cudart().cudaMemcpyKind, kind), stream)
