"""A GPU: one stream, memory, and captured graphs.

Addresses and streams are integers, as TensorRT, cuBLAS and launches take them.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from inflight.errors import EngineError
from inflight.machine.cuda import call, compute_capability, cudart, device_attribute, require_gpu

Array = npt.NDArray[Any]
# cudaEventDisableTiming
_WITHOUT_TIMES = 2


class Device:
    """Device `index`, made current for the calling thread; one stream, and the memory that was taken for it.

    `sm` is its compute capability: 90 is 9.0. Raises EngineError when cuda-python is not installed or no GPU can be
    used.
    """

    def __init__(self, index: int = 0) -> None:
        require_gpu()
        self.index = index
        self.sm = int(compute_capability(index))
        self._memories: set[DeviceMemory] = set()
        self._host_memories: list[int] = []
        self.make_current()
        self._stream = call("cudaStreamCreate")
        self.stream = int(self._stream)

    @property
    def name(self) -> str:
        return bytes(call("cudaGetDeviceProperties", self.index).name).rstrip(b"\0").decode()

    def attribute(self, name: str) -> int:
        """By its name in CUDA's runtime API, as in "cudaDevAttrL2CacheSize"."""
        return device_attribute(name, self.index)

    def make_current(self) -> None:
        """For the calling thread: another thread than that which opened the device calls it before it uses it."""
        call("cudaSetDevice", self.index)

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> DeviceMemory:
        """Raises EngineError when the GPU has not that much left."""
        memory = DeviceMemory(self.stream, nbytes)
        self._memories.add(memory)
        if zeroed:
            memory.clear()
        return memory

    def host_memory(self, nbytes: int) -> Array:
        """uint8 [nbytes] of this machine's memory that stays in its place, so that copies go on beside the caller. It
        is this device's until that is closed. Raises EngineError when there is not that much."""
        try:
            address = int(call("cudaHostAlloc", max(nbytes, 1), 0))
        except EngineError as error:
            raise EngineError(
                f"This machine does not give {nbytes:,} bytes of memory that copies to the GPU need. {error.message}",
                "Free memory, or build with a smaller --max-batch-size or --max-num-tokens.",
            ) from None
        self._host_memories.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def mark(self) -> Mark:
        """All that the stream was given up to here."""
        return Mark(self.stream)

    def upload(self, array: Array) -> DeviceMemory:
        """A copy of a contiguous array, which may be reused at once."""
        memory = self.allocate(array.nbytes)
        memory.write(array)
        self.wait()
        return memory

    def release(self, memory: DeviceMemory) -> None:
        self._memories.remove(memory)
        memory.free()

    def wait(self) -> None:
        """Until the stream has done all that it was given."""
        call("cudaStreamSynchronize", self.stream)

    def capture(self, queue: Callable[[], None]) -> CapturedGraph:
        """What `queue` puts on the stream, as a graph; it is not run. Whatever `queue` raises comes through."""
        call("cudaStreamBeginCapture", self.stream, cudart().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            queue()
        except BaseException:
            # Ends the capture amid which something failed. CUDA reports that failure once more: it is not looked at.
            cudart().cudaStreamEndCapture(self.stream)
            raise
        return CapturedGraph(call("cudaStreamEndCapture", self.stream), self.stream)

    def give_back(self, free: Callable[[], Any]) -> None:
        """Call `free`, unless the GPU was lost: then it refuses everything, and the end of the process frees all."""
        with contextlib.suppress(EngineError):
            self.make_current()
            free()

    def close(self) -> None:
        """Free the stream and all memory, as far as the GPU still takes it back. Calling it twice is harmless."""
        # Nothing may be on its way to memory that is freed.
        if self.stream:
            self.give_back(self.wait)
        while self._memories:
            self.give_back(self._memories.pop().free)
        while self._host_memories:
            self.give_back(partial(call, "cudaFreeHost", self._host_memories.pop()))
        if self.stream:
            self.give_back(partial(call, "cudaStreamDestroy", self.stream))
            self.stream = 0


class DeviceMemory:
    """`nbytes` of device memory at `address`, a multiple of 256; at least one byte, so that there is an address."""

    def __init__(self, stream: int, nbytes: int) -> None:
        self.nbytes = max(nbytes, 1)
        self._stream = stream
        try:
            self.address = int(call("cudaMalloc", self.nbytes))
        except EngineError as error:
            raise EngineError(
                f"The GPU does not give {self.nbytes:,} bytes. {error.message}",
                "Leave the KV cache less memory, or build with a smaller --max-batch-size or --max-seq-len.",
            ) from None

    def clear(self) -> None:
        call("cudaMemsetAsync", self.address, 0, self.nbytes, self._stream)

    def write(self, array: Array) -> None:
        """Copy a contiguous array to the start; it may be reused once the stream has been waited for."""
        self._copy(self.address, array.ctypes.data, self._fitting(array), "cudaMemcpyHostToDevice")

    def read(self, array: Array) -> None:
        """Fill a contiguous array from the start, once the stream gets there."""
        self._copy(array.ctypes.data, self.address, self._fitting(array), "cudaMemcpyDeviceToHost")

    def copy_from(self, other: DeviceMemory) -> None:
        """All of `other` to the start."""
        assert other.nbytes <= self.nbytes, "what is copied is larger than the memory"
        self._copy(self.address, other.address, other.nbytes, "cudaMemcpyDeviceToDevice")

    def free(self) -> None:
        call("cudaFree", self.address)

    def _fitting(self, array: Array) -> int:
        assert array.nbytes <= self.nbytes, "the array is larger than the memory"
        assert array.flags.c_contiguous, "the array is not contiguous"
        return int(array.nbytes)

    def _copy(self, target: int, source: int, nbytes: int, kind: str) -> None:
        copy_bytes(self._stream, target, source, nbytes, kind)


def copy_bytes(stream: int, target: int, source: int, nbytes: int, kind: str) -> None:
    """Queue a copy; `kind` is its name in CUDA, as in "cudaMemcpyHostToDevice"."""
    if nbytes:
        call("cudaMemcpyAsync", target, source, nbytes, getattr(cudart().cudaMemcpyKind, kind), stream)


class Mark:
    """A place on a stream, which is waited for once."""

    def __init__(self, stream: int) -> None:
        self._event = call("cudaEventCreateWithFlags", _WITHOUT_TIMES)
        call("cudaEventRecord", self._event, stream)

    def wait(self) -> None:
        """Until the stream has done all before it."""
        try:
            call("cudaEventSynchronize", self._event)
        finally:
            # Its status says what that of the waiting has said.
            cudart().cudaEventDestroy(self._event)


class CapturedGraph:
    """What a stream was given while it was captured, launched as one."""

    def __init__(self, graph: Any, stream: int) -> None:
        self._stream = stream
        try:
            self._executable = call("cudaGraphInstantiate", graph, 0)
        finally:
            call("cudaGraphDestroy", graph)

    def launch(self) -> None:
        call("cudaGraphLaunch", self._executable, self._stream)

    def free(self) -> None:
        call("cudaGraphExecDestroy", self._executable)
