"""Kernels of the cuda target on this machine's GPU, called as the interpreter is called. Skips where there is none."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from inflight.build.gpu_kernels.architectures import architecture_of
from inflight.build.gpu_kernels.cache import ArtifactCache
from inflight.build.gpu_kernels.compile import CompileJob, compile_kernels
from inflight.build.gpu_kernels.spec import Variant
from inflight.errors import EngineError
from inflight.runtime.executors.gpu.device import Device
from inflight.runtime.executors.gpu.kernel import LoadedKernel, load_kernel
from tests.kernel.gpu.support.cuda_launch import SPECS

Array = npt.NDArray[Any]


@functools.cache
def gpu() -> Device:
    """This machine's GPU; skips the test, with the reason, when there is none."""
    try:
        return Device()
    except EngineError as error:
        pytest.skip(error.message)


def run_on_gpu(function: str, variant: Variant, arguments: Mapping[str, Array | int], sizes: Mapping[str, int]) -> None:
    """One launch; arrays are copied there and back, and so written in place."""
    wanted = [argument.name for argument in SPECS[function].arguments]
    arrays = {name: value for name, value in arguments.items() if name in wanted and isinstance(value, np.ndarray)}
    copies = {name: gpu().upload(array) for name, array in arrays.items()}
    numbers = {name: value for name, value in arguments.items() if isinstance(value, int)}
    addresses = {name: copy.address for name, copy in copies.items()}
    try:
        loaded(function, variant).launch({**numbers, **addresses}, sizes)
        for name, copy in copies.items():
            copy.read(arrays[name])
        gpu().wait()
    finally:
        for copy in copies.values():
            gpu().release(copy)


_LOADED: dict[str, LoadedKernel] = {}


def loaded(function: str, variant: Variant) -> LoadedKernel:
    """The kernel, compiled for this GPU's generation, once a process."""
    key = f"{function} {variant}"
    if key not in _LOADED:
        job = CompileJob(SPECS[function], variant, architecture_of(gpu().sm).sm)
        _LOADED[key] = load_kernel(gpu(), compile_kernels([job], cache=ArtifactCache())[0])
    return _LOADED[key]
