"""CUDA through cuda-python: calls whose status is always looked at, and what there is of a GPU.

Neither cuda-python nor a GPU is needed to import this; runtime/executors/gpu has what runs on one.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from inflight.errors import EngineError

# Behind these every call fails until the process ends: the GPU is gone or has reset itself (46, 220, 226, 999), its
# memory is damaged (214), or a kernel has failed. Of one number in both APIs.
_LOST = {46, 214, 220, 226, 700, 702, 709, 710, *range(714, 720), 999}
_LOST_HINT = (
    "The GPU is lost to this process: start it again. nvidia-smi and the kernel's log (dmesg, lines with Xid) say"
    " whether the GPU still works."
)


def cudart() -> Any:
    """The bindings of CUDA's runtime API, for its enumerations. Raises EngineError when they are not installed."""
    return _bindings("runtime")


def cuda_driver() -> Any:
    """The bindings of CUDA's driver API. Raises as cudart()."""
    return _bindings("driver")


def call(function: str, *arguments: Any) -> Any:
    """One call of the CUDA runtime (cuda...) or driver (cu...); its result without the status.

    Raises EngineError with CUDA's own words, and says so where the GPU is lost to this process.
    """
    api = "runtime" if function.startswith("cuda") else "driver"
    bindings = _bindings(api)
    status, *results = getattr(bindings, function)(*arguments)
    if int(status) != 0:
        describe = bindings.cudaGetErrorString if api == "runtime" else bindings.cuGetErrorString
        lost = _LOST_HINT if int(status) in _LOST else None
        raise EngineError(f"CUDA's {function} failed: {describe(status)[1].decode()}.", lost)
    return results[0] if len(results) == 1 else tuple(results)


def require_gpu() -> None:
    """Raises EngineError, saying why, when this machine has no usable NVIDIA GPU."""
    hint = "Use a machine with an NVIDIA GPU of compute capability 8.0 or later and its driver."
    problem = driver_problem(int(call("cudaDriverGetVersion")), int(call("cudaRuntimeGetVersion")))
    if problem is not None:
        raise EngineError(f"No NVIDIA GPU can be used: {problem}.", hint)
    try:
        count = call("cudaGetDeviceCount")
    except EngineError as error:
        raise EngineError(f"No NVIDIA GPU can be used. {error.message}", error.hint or hint) from None
    if count < 1:
        raise EngineError("No NVIDIA GPU can be used: this machine has none.", hint)


def driver_problem(driver: int, needed: int) -> str | None:
    """What is wrong with a driver for CUDA of version `driver` (13040 is 13.4, 0: there is none), where programs of
    version `needed` are to run: those of one major version run on every driver of it, and of later ones."""
    if driver == 0:
        return "no driver of NVIDIA's is installed here (libcuda.so.1 is not found)"
    if driver // 1000 < needed // 1000:
        return f"its driver is for CUDA {driver // 1000}.{driver % 1000 // 10}, and CUDA {needed // 1000} is needed"
    return None


def compute_capability(device: int = 0) -> str:
    """Of a device: "89" is 8.9."""
    major = device_attribute("cudaDevAttrComputeCapabilityMajor", device)
    return f"{major}{device_attribute('cudaDevAttrComputeCapabilityMinor', device)}"


def device_attribute(name: str, device: int = 0) -> int:
    """An attribute of a device, by its name in CUDA's runtime API."""
    return int(call("cudaDeviceGetAttribute", getattr(cudart().cudaDeviceAttr, name), device))


@cache
def _bindings(api: str) -> Any:
    try:
        return importlib.import_module(f"cuda.bindings.{api}")
    except ImportError as error:
        raise EngineError(
            "cuda-python is not installed, through which an NVIDIA GPU is used.",
            "pip install 'cuda-bindings>=13', which 'inflight-llm[cuda]' and 'inflight-llm[tensorrt]' include.",
        ) from error
