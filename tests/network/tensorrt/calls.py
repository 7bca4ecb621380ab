"""What of TensorRT's Python API is used: the protocols, the classes they stand for, and the names of enumerators."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from inflight.build.targets.tensorrt import api as building
from inflight.runtime.executors.tensorrt import api as running

# Protocol -> the classes of TensorRT that it stands for, or whose members it has.
PROTOCOLS: Mapping[type, tuple[str, ...]] = {
    building.Weights: ("Weights",),
    building.Tensor: ("ITensor",),
    building.Layer: ("ILayer",),
    building.ConstantLayer: ("IConstantLayer",),
    building.ShuffleLayer: ("IShuffleLayer",),
    building.SliceLayer: ("ISliceLayer",),
    building.QuantizationLayer: ("IQuantizeLayer", "IDequantizeLayer"),
    building.ConcatenationLayer: ("IConcatenationLayer",),
    building.KVCacheUpdateLayer: ("IKVCacheUpdateLayer",),
    building.Attention: ("IAttention",),
    building.Network: ("INetworkDefinition",),
    building.OptimizationProfile: ("IOptimizationProfile",),
    building.BuilderConfig: ("IBuilderConfig",),
    building.HostMemory: ("IHostMemory",),
    building.Builder: ("Builder",),
    running.RuntimeConfig: ("IRuntimeConfig",),
    running.ExecutionContext: ("IExecutionContext",),
    running.CudaEngine: ("ICudaEngine",),
    running.Runtime: ("Runtime",),
    running.Weights: ("Weights",),
    running.Refitter: ("Refitter",),
}

# Members that tensorrt_rtx alone has; no other is used behind its back.
ONLY_RTX = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
}
# And those that full TensorRT alone has.
ONLY_FULL = {("INetworkDefinition", "add_plugin")}
ENUMERATORS: Mapping[str, frozenset[str]] = {
    "ActivationType": frozenset({"SIGMOID"}),
    "AttentionIOForm": frozenset({"PACKED_NHD"}),
    "AttentionNormalizationOp": frozenset({"SOFTMAX"}),
    "BuilderFlag": frozenset({"TF32", "STRIP_PLAN", "REFIT_INDIVIDUAL"}),
    "CausalMaskKind": frozenset({"NONE"}),
    "DataType": frozenset({"FLOAT", "HALF", "BF16", "INT8", "INT4", "FP8", "INT32", "BOOL"}),
    "ElementWiseOperation": frozenset({"SUM", "SUB", "PROD", "DIV", "MAX", "MIN", "AND", "GREATER"}),
    "ExecutionContextAllocationStrategy": frozenset({"USER_MANAGED"}),
    "KVCacheMode": frozenset({"LINEAR"}),
    "MatrixOperation": frozenset({"NONE", "TRANSPOSE"}),
    "NetworkDefinitionCreationFlag": frozenset({"STRONGLY_TYPED"}),
    "PreviewFeature": frozenset({"RUNTIME_ACTIVATION_RESIZE_10_10"}),
    "ProfilingVerbosity": frozenset({"DETAILED"}),
    "ReduceOperation": frozenset({"AVG", "MAX"}),
    "UnaryOperation": frozenset({"ABS", "NOT", "RECIP", "ROUND", "SQRT"}),
}
ENUMERATORS_OF_RTX: Mapping[str, frozenset[str]] = {
    "BuilderFlag": frozenset({"REQUIRE_USER_ALLOCATION"}),
    "ComputeCapability": frozenset({"SM75", "SM80", "SM86", "SM89", "SM120", "SM121"}),
    "DynamicShapesKernelSpecializationStrategy": frozenset({"NONE"}),
}


def enumerators(module: str) -> dict[str, frozenset[str]]:
    """Those that are used of tensorrt or tensorrt_rtx."""
    if module == "tensorrt":
        return dict(ENUMERATORS)
    names = {**ENUMERATORS, **ENUMERATORS_OF_RTX}
    return {name: ENUMERATORS.get(name, frozenset()) | ENUMERATORS_OF_RTX.get(name, frozenset()) for name in names}


def members(protocol: type) -> Iterator[tuple[str, list[str] | None]]:
    """Name and argument names of every member that a protocol itself declares; None for attributes."""
    yield from ((name, None) for name in vars(protocol).get("__annotations__", {}))
    for name, value in vars(protocol).items():
        if inspect.isfunction(value) and not name.startswith("_"):
            yield name, list(inspect.signature(value).parameters)[1:]
