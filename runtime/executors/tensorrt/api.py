"""The part of TensorRT's runtime API that the executor calls, typed; a test holds it to the real signatures.

Calls that fail return None or False; `checked` turns that into an error. Addresses are integers.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, TypeAlias, TypeVar

from inflight.errors import EngineError

Enumerator: TypeAlias = Any
# tensorrt or tensorrt_rtx.
Module: TypeAlias = Any


class RuntimeConfig(Protocol):
    """IRuntimeConfig. The attribute exists in tensorrt_rtx alone."""

    dynamic_shapes_kernel_specialization_strategy: Enumerator

    def set_execution_context_allocation_strategy(self, strategy: Enumerator) -> None: ...


class ExecutionContext(Protocol):
    """IExecutionContext."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def update_device_memory_size_for_shapes(self) -> int: ...
    def set_device_memory(self, memory: int, size: int) -> None: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class CudaEngine(Protocol):
    """ICudaEngine."""

    num_optimization_profiles: int

    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]: ...
    def create_runtime_config(self) -> RuntimeConfig | None: ...
    def create_execution_context(self, runtime_config: RuntimeConfig) -> ExecutionContext | None: ...


class Runtime(Protocol):
    """Runtime."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None: ...


class Weights(Protocol):
    """A view of host memory, which must live until the refit is done."""

    dtype: Enumerator
    size: int
    nbytes: int


class Refitter(Protocol):
    """Refitter."""

    def get_all_weights(self) -> Sequence[str]: ...
    def get_missing_weights(self) -> Sequence[str]: ...
    def get_weights_prototype(self, weights_name: str) -> Weights: ...
    def set_named_weights(self, name: str, weights: Weights) -> bool: ...
    def refit_cuda_engine(self) -> bool: ...


Result = TypeVar("Result")


def find_module(name: str) -> Module:
    """The module that built the engine. Raises EngineError when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = name.replace("_", "-")
        raise EngineError(
            f"The engine needs {name}, which cannot be imported: {error}.", f"pip install 'inflight-llm[{extra}]'"
        ) from error


@cache
def process_logger(module: Module) -> Any:
    """The one logger of a process, for warnings and errors: TensorRT asks for one that outlives all that it made."""
    return module.Logger(module.Logger.WARNING)


def checked(result: Result | None, what: str) -> Result:
    """The result of a call that returns None or False when it fails. Raises EngineError."""
    if result is None or result is False:
        raise EngineError(f"TensorRT failed to {what}; its log says why.")
    return result
