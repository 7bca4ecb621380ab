"""The cases on the GPU: kernels compiled for it, arrays in its memory, launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from cuda.bindings import driver
from cuda.core import LaunchConfig, ObjectCode, launch

from bench.gpu.case import Array, Call, Case
from inflight.build.targets.cuda.artifact import Artifact
from inflight.build.targets.cuda.cache import ArtifactCache
from inflight.build.targets.cuda.compile import CompileJob, compile_kernels
from inflight.build.targets.cuda.kernels import all_specs

# Python's integers are addresses to a launch.
_SCALARS: Mapping[str, Callable[[int], Any]] = {"i32": np.int32, "i64": np.int64}


class Kernels:
    """The kernels of calls, compiled for one GPU generation and loaded once each."""

    def __init__(self, sm: int, workers: int) -> None:
        self._sm, self._workers = sm, workers
        self._specs = {spec.function: spec for spec in all_specs()}
        self._cache = ArtifactCache()
        self._loaded: dict[str, tuple[Artifact, Any]] = {}

    def prepare(self, calls: list[Call]) -> None:
        """Compile what is missing, side by side. Raises BuildError."""
        missing = {_key(call): call for call in calls if _key(call) not in self._loaded}
        jobs = [CompileJob(self._specs[call.function], call.variant, self._sm) for call in missing.values()]
        artifacts = compile_kernels(jobs, workers=self._workers, cache=self._cache)
        for key, artifact in zip(missing, artifacts, strict=True):
            kernel = ObjectCode.from_cubin(artifact.cubin).get_kernel(artifact.entry)
            self._loaded[key] = artifact, kernel

    def queue(self, case: Case, addresses: Mapping[str, int]) -> Callable[[Any], None]:
        """A function that puts the launches of a prepared case on a stream."""

        def put(stream: Any) -> None:
            for call in case.calls:
                self._launch(stream, call, addresses)

        return put

    def _launch(self, stream: Any, call: Call, addresses: Mapping[str, int]) -> None:
        artifact, kernel = self._loaded[_key(call)]
        values = {**addresses, **call.scalars}
        arguments = [_SCALARS.get(argument.type, int)(values[argument.name]) for argument in artifact.arguments]
        config = LaunchConfig(
            grid=artifact.grid_for(call.sizes), block=artifact.threads, shmem_size=artifact.shared_bytes
        )
        launch(stream, config, kernel, *arguments, 0, 0)


@contextmanager
def uploaded(device: Any, stream: Any, arrays: Mapping[str, Array]) -> Iterator[dict[str, int]]:
    """Addresses of copies of the arrays in the device's memory, by name."""
    buffers = {name: device.allocate(max(array.nbytes, 1), stream=stream) for name, array in arrays.items()}
    try:
        stream.sync()
        for name, array in arrays.items():
            (status,) = driver.cuMemcpyHtoD(int(buffers[name].handle), array.ctypes.data, array.nbytes)
            if status != driver.CUresult.CUDA_SUCCESS:
                raise RuntimeError(f"copying {name} to the device failed: {status.name}")
        yield {name: int(buffer.handle) for name, buffer in buffers.items()}
    finally:
        for buffer in buffers.values():
            buffer.close()


def _key(call: Call) -> str:
    return f"{call.function} {sorted(call.variant.types.items())} {sorted(call.variant.constants.items())}"
