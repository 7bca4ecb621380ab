"""The cases on the GPU: kernels compiled for it, arrays in its memory, launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from compare.gpu.case import Array, Call, Case
from inflight.build.gpu_kernels.architectures import architecture_of
from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compile import CompileJob, compile_kernels
from inflight.build.gpu_kernels.kernels import all_specs
from inflight.engine_format.gpu_artifact import Artifact
from inflight.runtime.executors.gpu.device import Device
from inflight.runtime.executors.gpu.kernel import LoadedKernel, load_kernel


class Kernels:
    """The kernels of calls, compiled for one GPU and loaded once each."""

    def __init__(self, gpu: Device, workers: int, compiled: Mapping[str, Artifact] | None = None) -> None:
        """`compiled`: kernels that are there already, by `key_of` their calls."""
        self._gpu, self._workers = gpu, workers
        self._sm = architecture_of(gpu.sm).sm
        self._specs = {spec.function: spec for spec in all_specs()}
        self._compiled = compiled or {}
        self._loaded: dict[str, LoadedKernel] = {}

    def prepare(self, calls: list[Call]) -> None:
        """Compile what is missing, side by side. Raises BuildError."""
        missing = {key_of(call): call for call in calls if key_of(call) not in self._loaded}
        for key in [key for key in missing if key in self._compiled]:
            self._loaded[key] = load_kernel(self._gpu, self._compiled[key])
            del missing[key]
        jobs = [CompileJob(self._specs[call.function], call.variant, self._sm) for call in missing.values()]
        artifacts = compile_kernels(jobs, workers=self._workers, cache=ArtifactCache())
        for key, artifact in zip(missing, artifacts, strict=True):
            self._loaded[key] = load_kernel(self._gpu, artifact)

    def queue(self, case: Case, addresses: Mapping[str, int]) -> Callable[[], None]:
        """A function that puts the launches of a prepared case on the device's stream."""

        def put() -> None:
            for call in case.calls:
                renamed = {argument: addresses[name] for argument, name in call.arrays.items()}
                self._loaded[key_of(call)].launch({**addresses, **renamed, **call.scalars}, call.sizes)

        return put


@contextmanager
def uploaded(gpu: Device, arrays: Mapping[str, Array]) -> Iterator[dict[str, int]]:
    """Addresses of copies of the arrays in the device's memory, by name."""
    copies = {name: gpu.upload(array) for name, array in arrays.items()}
    try:
        yield {name: copy.address for name, copy in copies.items()}
    finally:
        gpu.wait()
        for copy in copies.values():
            gpu.release(copy)


def key_of(call: Call) -> str:
    """The same for calls of one kernel."""
    return f"{call.function} {sorted(call.variant.types.items())} {sorted(call.variant.constants.items())}"
