"""The calls of CUDA that are made: cuda-python has them and takes these arguments. No GPU is needed, nor used.

Without a driver the bindings convert every argument before they report that there is none, so that much of a call runs.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inflight.engine_format.gpu_artifact import Artifact, ArtifactArgument, ArtifactExtent
from inflight.errors import EngineError
from inflight.machine.cuda import call, compute_capability, driver_problem, require_gpu
from inflight.runtime.executors.cuda.gpu_backend import GpuBackend
from inflight.runtime.executors.gpu.device import CapturedGraph, Device, DeviceMemory, Mark
from inflight.runtime.executors.gpu.kernel import LoadedKernel
from tests.paths import ROOT

pytestmark = pytest.mark.unit

NEEDS = "cuda-python is not installed"
SOURCES = [
    ROOT / "src/inflight/machine/cuda.py",
    *sorted((ROOT / "runtime/executors/gpu").glob("*.py")),
    ROOT / "runtime/executors/tensorrt/device.py",
    ROOT / "scripts/compare/gpu/timing.py",
]


def calls(path: Path) -> Iterator[tuple[str, int | None]]:
    """Functions that are called by name, and with how many arguments; None where that is known at run time alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "call":
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            yield str(node.args[0].value), None if starred else len(node.args) - 1


def test_cuda_python_has_the_calls_that_are_made_with_as_many_arguments() -> None:
    cudart = pytest.importorskip("cuda.bindings.runtime", reason=NEEDS)
    driver = importlib.import_module("cuda.bindings.driver")
    found = [made for path in SOURCES for made in calls(path)]
    assert len({name for name, _ in found}) > 20
    for name, count in found:
        function = getattr(cudart if name.startswith("cuda") else driver, name)
        if count is not None:
            inspect.signature(function).bind(*range(count))
    assert importlib.import_module("cuda.bindings").__version__ >= "13"


def test_cuda_python_has_the_enumerators_that_are_named() -> None:
    cudart = pytest.importorskip("cuda.bindings.runtime", reason=NEEDS)
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    source += (ROOT / "scripts/compare/gpu/session.py").read_text(encoding="utf-8")
    named = set(re.findall(r"cudart\(\)\.(\w+)\.(\w+)", source))
    named |= {("cudaDeviceAttr", name) for name in re.findall(r'"(cudaDevAttr\w+)"', source)}
    named |= {("cudaMemcpyKind", name) for name in re.findall(r'"(cudaMemcpy\w+To\w+)"', source)}
    assert {kind for kind, _ in named} == {
        "cudaDeviceAttr",
        "cudaMemcpyKind",
        "cudaStreamCaptureMode",
        "cudaFuncAttribute",
    }
    assert not [pair for pair in named if not hasattr(getattr(cudart, pair[0]), pair[1])]
    assert hasattr(cudart.cudaDeviceProp(), "name")


@pytest.fixture
def without_gpu() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason=NEEDS)
    try:
        require_gpu()
    except EngineError:
        return
    pytest.skip("this machine has a GPU: tests/kernel/gpu runs on it")


def opened() -> Device:
    """A device as it would be after opening, with a stream of this number."""
    device = Device.__new__(Device)
    device.index, device.sm, device.stream, device._memories, device._stream = 0, 90, 7, set(), 7
    device._host_memories = []
    return device


def memory() -> DeviceMemory:
    place = DeviceMemory.__new__(DeviceMemory)
    place.nbytes, place.address, place._stream = 64, 4096, 7
    return place


def some_artifact(*, waits: bool = True) -> Artifact:
    arguments = [("x", "*bf16", 16), ("rows", "i32", 1), ("stride", "i64", 16), ("scale", "fp32", 1)]
    return Artifact(
        kernel="norm",
        entry="norm_kernel",
        sm=90,
        arguments=tuple(ArtifactArgument(name=n, type=t, alignment=a) for n, t, a in arguments),
        types={},
        constants={},
        grid=((ArtifactExtent(size="rows", per=2),),),
        threads=128,
        num_stages=1,
        shared_bytes=99_000,
        registers=32,
        stack_bytes=0,
        spill_store_bytes=0,
        spill_load_bytes=0,
        waits=waits,
        tools={},
        cubin=b"\x7fELF",
        ptx="",
    )


def made_calls() -> dict[str, tuple[str, Callable[[], Any]]]:
    """What of the wrapper makes which call of CUDA first."""
    device, place, array = opened(), memory(), np.zeros(16, np.float32)
    graph = CapturedGraph.__new__(CapturedGraph)
    graph._stream, graph._executable = 7, 0
    mark = Mark.__new__(Mark)
    mark._event = 0
    return {
        "count": ("cudaGetDeviceCount", partial(call, "cudaGetDeviceCount")),
        "capability": ("cudaDeviceGetAttribute", compute_capability),
        "name": ("cudaGetDeviceProperties", lambda: device.name),
        "current": ("cudaSetDevice", device.make_current),
        "wait": ("cudaStreamSynchronize", device.wait),
        "allocate": ("cudaMalloc", partial(device.allocate, 100)),
        "clear": ("cudaMemsetAsync", place.clear),
        "write": ("cudaMemcpyAsync", partial(place.write, array)),
        "read": ("cudaMemcpyAsync", partial(place.read, array)),
        "copy": ("cudaMemcpyAsync", partial(place.copy_from, memory())),
        "free": ("cudaFree", place.free),
        "capture": ("cudaStreamBeginCapture", partial(device.capture, lambda: None)),
        "graph": ("cudaGraphDestroy", partial(CapturedGraph, 0, 7)),
        "launch graph": ("cudaGraphLaunch", graph.launch),
        "free graph": ("cudaGraphExecDestroy", graph.free),
        "load": ("cudaLibraryLoadData", partial(LoadedKernel, device, some_artifact())),
        "kernel": ("cudaLibraryGetKernel", partial(call, "cudaLibraryGetKernel", 0, b"name")),
        "close": ("cudaStreamDestroy", partial(call, "cudaStreamDestroy", 7)),
        "host memory": ("cudaHostAlloc", partial(device.host_memory, 100)),
        "free host memory": ("cudaFreeHost", partial(call, "cudaFreeHost", 4096)),
        "mark": ("cudaEventCreateWithFlags", device.mark),
        "mark the stream": ("cudaEventRecord", partial(call, "cudaEventRecord", 0, 7)),
        "wait for a mark": ("cudaEventSynchronize", mark.wait),
        "unload": ("cudaLibraryUnload", partial(call, "cudaLibraryUnload", 0)),
        "events": ("cudaEventCreate", partial(call, "cudaEventCreate")),
        "elapsed": ("cudaEventElapsedTime", partial(call, "cudaEventElapsedTime", 0, 0)),
    }


@pytest.mark.usefixtures("without_gpu")
def test_without_a_driver_every_call_is_refused_by_cuda_and_not_by_its_arguments() -> None:
    for what, (function, make) in made_calls().items():
        with pytest.raises(EngineError, match=f"CUDA's {function} failed: ") as error:
            make()
        assert "driver" in error.value.message, what


def some_kernel(*, waits: bool = True) -> LoadedKernel:
    kernel = LoadedKernel.__new__(LoadedKernel)
    kernel.artifact, kernel._device, kernel._kernel = some_artifact(waits=waits), opened(), 5
    return kernel


@pytest.mark.usefixtures("without_gpu")
def test_a_launch_takes_addresses_and_numbers_as_the_kernel_declares_them() -> None:
    """The driver is not there; the bindings load it after they have read the arguments."""
    kernel = some_kernel()
    arguments = {"x": 1 << 40, "rows": 3, "stride": 1 << 35, "scale": 1}
    packed = kernel.pack(arguments, {"rows": "tokens"})
    with pytest.raises(RuntimeError, match="driver"):
        packed.launch({"rows": 3, "tokens": 7})
    assert [cell.value for cell in packed._cells] == [1 << 40, 7, 1 << 35, 1.0, None, None]
    assert ctypes.c_int32.from_address(int(packed._pointers[1] or 0)).value == 7
    kernel.launch(arguments, {"rows": 0})
    with pytest.raises(ValueError, match="stride of norm must be a multiple of 16"):
        kernel.pack({**arguments, "stride": 8}, {})
    with pytest.raises(KeyError, match="scale"):
        kernel.pack({name: value for name, value in arguments.items() if name != "scale"}, {})
    with pytest.raises(KeyError, match="tokens"):
        packed.launch({"rows": 3})


@pytest.mark.usefixtures("without_gpu")
def test_a_kernel_that_waits_by_itself_may_begin_before_the_launch_before_it_has_ended() -> None:
    for waits in (True, False):
        packed = some_kernel(waits=waits).pack({"x": 0, "rows": 3, "stride": 0, "scale": 1}, {})
        with pytest.raises(RuntimeError, match="driver"):
            packed.launch({"rows": 5})
        config = packed._config
        assert (config.gridDimX, config.gridDimY, config.gridDimZ) == (3, 1, 1)
        assert (config.blockDimX, config.sharedMemBytes, config.numAttrs) == (128, 99_000, int(waits))
        if waits:
            (attribute,) = config.attrs
            assert attribute.id.name == "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION"
            assert attribute.value.programmaticStreamSerializationAllowed == 1


@pytest.mark.usefixtures("without_gpu")
def test_what_is_wrong_with_the_driver_is_one_sentence() -> None:
    with pytest.raises(EngineError, match="No NVIDIA GPU can be used: no driver of NVIDIA's is installed here"):
        require_gpu()
    assert driver_problem(12040, 13040) == "its driver is for CUDA 12.4, and CUDA 13 is needed"
    assert driver_problem(13000, 13040) is None and driver_problem(14010, 13040) is None


@pytest.mark.usefixtures("without_gpu")
def test_a_gpu_without_so_much_memory_says_how_to_need_less() -> None:
    with pytest.raises(EngineError, match="The GPU does not give 100 bytes") as error:
        opened().allocate(100)
    assert error.value.hint and "--max-batch-size" in error.value.hint
    with pytest.raises(EngineError, match="This machine does not give 100 bytes") as error:
        opened().host_memory(100)
    assert error.value.hint and "--max-batch-size" in error.value.hint


def test_a_call_behind_which_all_fail_says_that_the_gpu_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's own words for the statuses; the status itself takes a GPU that fails."""
    cudart = pytest.importorskip("cuda.bindings.runtime", reason=NEEDS)
    for name, lost in (
        ("cudaErrorLaunchFailure", True),
        ("cudaErrorECCUncorrectable", True),
        ("cudaErrorInvalidValue", False),
    ):
        monkeypatch.setattr(
            cudart, "cudaEventSynchronize", lambda event, name=name: (getattr(cudart.cudaError_t, name),)
        )
        with pytest.raises(EngineError, match="CUDA's cudaEventSynchronize failed: ") as error:
            call("cudaEventSynchronize", 0)
        assert ("lost to this process" in (error.value.hint or "")) is lost


@pytest.mark.usefixtures("without_gpu")
def test_a_gpu_that_was_lost_is_closed_without_another_error() -> None:
    """Here it is no driver that refuses everything."""
    device = opened()
    device._memories, device._host_memories = {memory()}, [4096]
    backend = GpuBackend.__new__(GpuBackend)
    backend._device, backend._kernels, backend._graphs = device, [some_kernel()], []
    backend._kernels[0]._library = 0
    with pytest.raises(EngineError, match="cudaSetDevice"):
        backend.wait()
    backend.close()
    assert (device.stream, device._memories, device._host_memories, backend._kernels) == (0, set(), [], [])
    with pytest.raises(EngineError, match="closed"):
        backend.wait()
    backend.close()


def test_memory_takes_no_array_that_it_cannot_hold_or_that_has_gaps() -> None:
    with pytest.raises(AssertionError, match="larger"):
        memory().write(np.zeros(17, np.float32))
    with pytest.raises(AssertionError, match="contiguous"):
        memory().read(np.zeros((4, 4), np.float32)[:, ::2])
