"""The GPU through CUDA's runtime API (cuda-python): memory, one stream, and captured graphs."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from inflight.errors import EngineError

Array = npt.NDArray[Any]


def _cudart() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            "Engines of target tensorrt need cuda-python, which is not installed.", "pip install 'cuda-python>=13'"
        ) from error
    return runtime


def _call(function: str, *arguments: Any) -> Any:
    """One call of the CUDA runtime; its result without the status. Raises EngineError with CUDA's own words."""
    cudart = _cudart()
    status, *results = getattr(cudart, function)(*arguments)
    if status != cudart.cudaError_t.cudaSuccess:
        words = cudart.cudaGetErrorString(status)[1].decode()
        raise EngineError(f"CUDA's {function} failed: {words}.")
    return results[0] if len(results) == 1 else tuple(results)


def require_gpu() -> None:
    """Raises EngineError, saying what would work, when this machine has no usable NVIDIA GPU."""
    hint = (
        "Run it on a machine with an NVIDIA GPU and driver, or build for this one: inflight build-engine --target cpu"
    )
    try:
        count = _call("cudaGetDeviceCount")
    except EngineError as error:
        raise EngineError(f"The engine is for an NVIDIA GPU. {error.message}", error.hint or hint) from None
    if count < 1:
        raise EngineError("The engine is for an NVIDIA GPU, and this machine has none.", hint)


def compute_capability() -> str:
    """Of device 0: "89" is 8.9."""
    attributes = _cudart().cudaDeviceAttr
    names = ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
    return "".join(str(_call("cudaDeviceGetAttribute", getattr(attributes, name), 0)) for name in names)


def free_memory() -> int:
    """Free device memory in bytes."""
    require_gpu()
    free, _ = _call("cudaMemGetInfo")
    return int(free)


class Device:
    """Device 0: one stream, and the memory that was taken for it. `stream` is what TensorRT takes as a handle."""

    def __init__(self) -> None:
        self._memories: set[DeviceMemory] = set()
        self._stream = _call("cudaStreamCreate")
        self.stream = int(self._stream)

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> DeviceMemory:
        """Raises EngineError when the GPU has too little free memory."""
        memory = DeviceMemory(self.stream, nbytes)
        self._memories.add(memory)
        if zeroed:
            memory.clear()
        return memory

    def release(self, memory: DeviceMemory) -> None:
        self._memories.remove(memory)
        memory.free()

    def wait(self) -> None:
        """Wait until the stream has finished everything queued on it."""
        _call("cudaStreamSynchronize", self.stream)

    def begin_capture(self) -> None:
        mode = _cudart().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self.stream, mode)

    def end_capture(self) -> CapturedGraph:
        return CapturedGraph(_call("cudaStreamEndCapture", self.stream), self.stream)

    def abandon_capture(self) -> None:
        """End a capture during which something failed. CUDA reports that failure again; it is ignored here."""
        _cudart().cudaStreamEndCapture(self.stream)

    def close(self) -> None:
        """Free the stream and all memory. Calling it twice is harmless."""
        while self._memories:
            self._memories.pop().free()
        if self.stream:
            _call("cudaStreamDestroy", self.stream)
            self.stream = 0


class DeviceMemory:
    """`nbytes` of device memory at `address`; at least one, so that there is an address."""

    def __init__(self, stream: int, nbytes: int) -> None:
        self.nbytes = max(nbytes, 1)
        self._stream = stream
        try:
            self.address = int(_call("cudaMalloc", self.nbytes))
        except EngineError as error:
            raise EngineError(
                f"The GPU does not give {self.nbytes:,} bytes. {error.message}",
                "Leave the KV cache less memory, or build with a smaller --max-batch-size or --max-seq-len.",
            ) from None

    def clear(self) -> None:
        _call("cudaMemsetAsync", self.address, 0, self.nbytes, self._stream)

    def write(self, array: Array) -> None:
        """Copy a contiguous array to the start; it may be reused once the stream has been waited for."""
        assert array.nbytes <= self.nbytes, "the array is larger than the memory"
        kind = _cudart().cudaMemcpyKind.cudaMemcpyHostToDevice
        _call("cudaMemcpyAsync", self.address, array.ctypes.data, array.nbytes, kind, self._stream)

    def read(self, array: Array) -> None:
        """Queue a copy of the start into a contiguous array."""
        kind = _cudart().cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call("cudaMemcpyAsync", array.ctypes.data, self.address, array.nbytes, kind, self._stream)

    def free(self) -> None:
        _call("cudaFree", self.address)


class CapturedGraph:
    """The work captured from a stream, launched as one."""

    def __init__(self, graph: Any, stream: int) -> None:
        self._stream = stream
        try:
            self._executable = _call("cudaGraphInstantiate", graph, 0)
        finally:
            _call("cudaGraphDestroy", graph)

    def launch(self) -> None:
        _call("cudaGraphLaunch", self._executable, self._stream)

    def free(self) -> None:
        _call("cudaGraphExecDestroy", self._executable)
