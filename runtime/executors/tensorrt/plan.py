"""Opening a plan: the one for this GPU, its weights refitted or bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inflight.engine_format.manifest import EngineManifest
from inflight.engine_format.tensorrt_facts import DevicePlan
from inflight.errors import EngineError
from inflight.files.tensor_file import TensorFileError, read_header
from inflight.runtime.executors.gpu.device import Device, DeviceMemory
from inflight.runtime.executors.tensorrt.api import CudaEngine, Module, Refitter, Runtime, checked, process_logger
from inflight.runtime.loading.rebuild import rebuild_hint

Bytes: TypeAlias = npt.NDArray[np.uint8]


def choose_plan(plans: Sequence[DevicePlan], manifest: EngineManifest, capability: str, directory: Path) -> DevicePlan:
    """The first plan for a GPU of this compute capability. Raises EngineError naming those that there are."""
    for plan in plans:
        if not plan.compute_capabilities or capability in plan.compute_capabilities:
            return plan
    built = ", ".join(f"SM{sm}" for plan in plans for sm in plan.compute_capabilities)
    raise EngineError(
        f"{directory} has plans for {built}, and this machine's GPU is SM{capability}.",
        rebuild_hint(manifest.recipe, manifest.target, directory, sm=[capability]),
    )


def open_plan(trt: Module, path: Path, manifest: EngineManifest) -> tuple[Runtime, CudaEngine]:
    """Both must live as long as the engine is used. Raises EngineError when TensorRT does not take the plan."""
    runtime: Runtime = trt.Runtime(process_logger(trt))
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} does not take {path}, which {manifest.tools} wrote; its log says why.",
            rebuild_hint(manifest.recipe, manifest.target, path.parent),
        )
    return runtime, engine


def map_weights(path: Path) -> dict[str, Bytes]:
    """The tensors of a safetensors file as mapped bytes. Raises EngineError when it is damaged."""
    try:
        entries = read_header(path)
    except TensorFileError as error:
        raise EngineError(error.message, "Build the engine again.") from error
    data = np.memmap(path, np.uint8, mode="r")
    return {name: data[each.offset : each.offset + each.nbytes].view(np.ndarray) for name, each in entries.items()}


def refit(trt: Module, engine: CudaEngine, weights: Mapping[str, Bytes]) -> None:
    """Put every weight into the engine. Raises EngineError naming what the file lacks or has in another size."""
    refitter: Refitter = trt.Refitter(engine, process_logger(trt))
    for name in refitter.get_all_weights():
        prototype = refitter.get_weights_prototype(name)
        if name not in weights or weights[name].nbytes != prototype.nbytes:
            raise EngineError(
                f"The weights file lacks {name} with {prototype.nbytes:,} bytes.", "Build the engine again."
            )
        filled = trt.Weights(prototype.dtype, weights[name].ctypes.data, prototype.size)
        checked(refitter.set_named_weights(name, filled), f"take the weights {name}")
    missing = list(refitter.get_missing_weights())
    if missing:
        raise EngineError(f"TensorRT still lacks the weights {', '.join(missing[:3])}.", "Build the engine again.")
    checked(refitter.refit_cuda_engine(), "refit the engine")


def upload(weights: Mapping[str, Bytes], device: Device) -> dict[str, DeviceMemory]:
    """Every weight in device memory of its own, by name."""
    memories = {}
    for name, data in weights.items():
        memories[name] = device.allocate(data.nbytes)
        memories[name].write(data)
    device.wait()
    return memories
