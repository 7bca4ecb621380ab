"""The launches of a cuda engine under Triton's interpreter, in the memory of this machine, and such engines without
code for GPUs.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from inflight.build.gpu_kernels.compile import Compilation, CompileJob
from inflight.engine_format.gpu_artifact import Artifact
from inflight.runtime.executors.cuda.executor import CudaExecutor
from inflight.runtime.loading.engine_directory import read_engine_directory
from tests.kernel.gpu.support.cuda_launch import FASTER_HERE, SPECS

Array = npt.NDArray[Any]
_ALIGNMENT = 256
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "i8": torch.int8, "i32": torch.int32}
_TYPES |= {"i64": torch.int64}


class InterpretedBackend:
    """See Backend of inflight.runtime.executors.cuda. Fresh memory holds NaN: what is read must have been written."""

    def __init__(self, kernels: Mapping[int, list[Artifact]]) -> None:
        self._kernels = kernels[max(kernels)]
        self._memories: list[Array] = []
        # What is launched while this is a list is recorded and does not run.
        self._recording: list[Callable[[], None]] | None = None

    def allocate(self, nbytes: int, *, zeroed: bool = False) -> int:
        memory = np.full(nbytes + _ALIGNMENT, 0 if zeroed else 0xFF, np.uint8)
        self._memories.append(memory)
        return -(-memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT

    def host(self, nbytes: int) -> Array:
        return np.full(nbytes, 0xFF, np.uint8)

    def write(self, address: int, array: Array) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def read(self, address: int, array: Array) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def constant(self, kernel: int, name: str) -> int:
        return int(self._kernels[kernel].constants[name])

    def pack(self, kernel: int, arguments: Mapping[str, int], numbers: Mapping[str, str]) -> InterpretedLaunch:
        return InterpretedLaunch(self, kernel, arguments, numbers)

    def launch(self, kernel: int, arguments: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        """Run it, or note it where launches are recorded."""
        if self._recording is not None:
            self._recording.append(partial(self.interpret, kernel, arguments, sizes))
        else:
            self.interpret(kernel, arguments, sizes)

    def record(self, queue: Callable[[], None]) -> RecordedLaunches:
        recorded: list[Callable[[], None]] = []
        self._recording = recorded
        try:
            queue()
        finally:
            self._recording = None
        return RecordedLaunches(recorded)

    def interpret(self, kernel: int, arguments: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        artifact = self._kernels[kernel]
        spec = SPECS[artifact.kernel]
        function = getattr(sys.modules[spec.module], spec.function)
        values = [_value(argument.type, arguments[argument.name]) for argument in artifact.arguments]
        assert {each.name for each in artifact.arguments} == set(arguments), artifact.kernel
        for argument in artifact.arguments:
            assert arguments[argument.name] % argument.alignment == 0, f"{argument.name} of {artifact.kernel}"
        constants = {**artifact.constants, **FASTER_HERE.get(artifact.kernel, {})}
        with np.errstate(all="ignore"):
            function[artifact.grid_for(sizes)](*values, **constants)

    def mark(self) -> None:
        """Nothing runs behind the caller's back."""

    def wait_for(self, mark: None) -> None:
        """As `mark`."""

    def wait(self) -> None:
        """As `mark`."""

    def close(self) -> None:
        self._memories.clear()


@dataclass(frozen=True)
class InterpretedLaunch:
    """See PackedLaunch."""

    backend: InterpretedBackend
    kernel: int
    arguments: Mapping[str, int]
    numbers: Mapping[str, str]

    def launch(self, sizes: Mapping[str, int]) -> None:
        given = {name: sizes[size] for name, size in self.numbers.items()}
        self.backend.launch(self.kernel, {**self.arguments, **given}, dict(sizes))


@dataclass(frozen=True)
class RecordedLaunches:
    """See Recorded."""

    launches: Sequence[Callable[[], None]]

    def launch(self) -> None:
        for each in self.launches:
            each()


def _value(kind: str, value: int) -> Any:
    """An integer, or memory at an address as a tensor: the interpreter takes its pointer alone. Tensors at one address
    are of as many bytes, since the interpreter takes the storage of the first for all."""
    if not kind.startswith("*"):
        return value
    return torch.frombuffer((ctypes.c_char * _ALIGNMENT).from_address(value), dtype=_TYPES[kind.removeprefix("*")])


@contextmanager
def uncompiled() -> Iterator[None]:
    """Engines that are built meanwhile have no code, of which the interpreter reads none: compiling it takes three
    times as long as a test's steps. What is compiled is the matter of tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inflight.build.targets.cuda.build.compiling", _described)
        yield


@contextmanager
def _described(jobs: Sequence[CompileJob], **_cache: Any) -> Iterator[Compilation]:
    yield Compilation([_described_job(job) for job in jobs], [], lambda place, artifact: None)


def _described_job(job: CompileJob) -> Artifact:
    from inflight.build.gpu_kernels.compiler.triton_compiler import arguments_of, grid_of

    tuning = job.spec.tune(job.sm, job.variant)
    constants = job.spec.constants(job.variant, tuning)
    numbers = dict.fromkeys(("shared_bytes", "registers", "stack_bytes", "spill_store_bytes", "spill_load_bytes"), 0)
    return Artifact(
        kernel=job.spec.function,
        entry="",
        sm=job.sm,
        arguments=arguments_of(job.spec, job.variant),
        types=dict(job.variant.types),
        constants=constants,
        grid=grid_of(job.spec, constants),
        threads=32 * tuning.num_warps,
        num_stages=tuning.num_stages,
        **numbers,
        waits=False,
        tools={},
        cubin=b"",
        ptx="",
    )


def open_interpreted(directory: Path, num_blocks: int) -> CudaExecutor:
    """The executor of a cuda engine, interpreted."""
    return CudaExecutor(directory, read_engine_directory(directory).manifest, num_blocks, InterpretedBackend)
