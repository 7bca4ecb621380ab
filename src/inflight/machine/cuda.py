"""CUDA through cuda-python: calls whose status is always looked at, and what there is of a GPU.

Neither cuda-python nor a GPU is needed to import this; runtime/executors/gpu has what runs on one.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from inflight.errors import EngineError


def cudart() -> Any:
    """The bindings of CUDA's runtime API, for its enumerations. Raises EngineError when they are not installed."""
    return _bindings("runtime")


def call(function: str, *arguments: Any) -> Any:
    """One call of the CUDA runtime (cuda...) or driver (cu...); its result without the status.

    Raises EngineError with CUDA's own words.
    """
    api = "runtime" if function.startswith("cuda") else "driver"
    bindings = _bindings(api)
    status, *results = getattr(bindings, function)(*arguments)
    if int(status) != 0:
        describe = bindings.cudaGetErrorString if api == "runtime" else bindings.cuGetErrorString
        raise EngineError(f"CUDA's {function} failed: {describe(status)[1].decode()}.")
    return results[0] if len(results) == 1 else tuple(results)


def require_gpu() -> None:
    """Raises EngineError, saying why, when this machine has no usable NVIDIA GPU."""
    hint = "Use a machine with an NVIDIA GPU of compute capability 8.0 or later and its driver."
    try:
        count = call("cudaGetDeviceCount")
    except EngineError as error:
        if error.hint:  # cuda-python is not installed
            raise
        raise EngineError(f"No NVIDIA GPU can be used. {error.message}", hint) from None
    if count < 1:
        raise EngineError("No NVIDIA GPU can be used: this machine has none.", hint)


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
            "pip install 'cuda-python>=13', which 'inflight-llm[cuda]' and 'inflight-llm[tensorrt]' include.",
        ) from error
