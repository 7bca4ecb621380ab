"""The part of TensorRT's Python API that the builder calls, typed.

TensorRT ships no stubs. mypy holds the builder to these protocols, and a test holds the protocols to the live module
and to the public source of full TensorRT 11. A call that fails returns None or False there; `made` turns that into an
error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from inflight.errors import BuildError

# A member of one of TensorRT's enumerations, which have equal names in both modules.
Enumerator: TypeAlias = Any
Dims: TypeAlias = Sequence[int]
# The module itself, `tensorrt` or `tensorrt_rtx`.
Module: TypeAlias = Any


class Weights(Protocol):
    """A view of host memory: the memory must live until the build has ended."""

    dtype: Enumerator
    size: int


class Tensor(Protocol):
    """ITensor."""

    name: str
    dtype: Enumerator
    shape: Dims

    def set_dimension_name(self, index: int, name: str) -> None: ...
    def get_dimension_name(self, index: int) -> str: ...


class Layer(Protocol):
    """ILayer."""

    name: str
    metadata: str
    type: Enumerator

    def get_output(self, index: int) -> Tensor: ...
    def get_input(self, index: int) -> Tensor: ...
    def set_input(self, index: int, tensor: Tensor) -> None: ...


class ConstantLayer(Layer, Protocol):
    """IConstantLayer."""

    weights: Weights


class ShuffleLayer(Layer, Protocol):
    """IShuffleLayer: transpose, reshape, transpose. A dimension 0 of the reshape copies the input's."""

    first_transpose: Sequence[int]
    reshape_dims: Dims
    second_transpose: Sequence[int]


class SliceLayer(Layer, Protocol):
    """ISliceLayer. With `axes`, start, shape and stride have one entry for each of them."""

    axes: Dims


class QuantizationLayer(Layer, Protocol):
    """IQuantizeLayer and IDequantizeLayer. `axis` is that of a scale of rank 1."""

    axis: int


class ConcatenationLayer(Layer, Protocol):
    """IConcatenationLayer."""

    axis: int


class KVCacheUpdateLayer(Layer, Protocol):
    """IKVCacheUpdateLayer."""

    update_form: Enumerator
    update_lengths: Tensor | None


class Attention(Protocol):
    """IAttention."""

    name: str
    mask: Tensor | None
    decomposable: bool
    key_value_lengths: Tensor | None

    def get_output(self, index: int) -> Tensor: ...


# What a plugin of tensorrt.plugin.op gives for its inputs and attributes, and what add_plugin takes.
PluginRequest: TypeAlias = Callable[..., Any]


class PluginOps(Protocol):
    """tensorrt.plugin.op.inflight, once plugins.py is imported: tensors, then attributes by name."""

    paged_decode: Callable[..., PluginRequest]
    combine_splits: Callable[..., PluginRequest]
    paged_prefill: Callable[..., PluginRequest]


@dataclass(frozen=True)
class PagedPlugins:
    """Attention over pages, and the GPU generation (90 is 9.0) that its kernels are compiled for."""

    ops: PluginOps
    sm: int


class Network(Protocol):
    """INetworkDefinition. Every add_ call returns None when the layer cannot be made. add_plugin is full TensorRT's."""

    name: str
    num_inputs: int
    num_outputs: int
    num_layers: int

    def get_input(self, index: int) -> Tensor: ...
    def get_output(self, index: int) -> Tensor: ...
    def get_layer(self, index: int) -> Layer: ...
    def add_input(self, name: str, dtype: Enumerator, shape: Dims) -> Tensor | None: ...
    def add_constant(self, shape: Dims, weights: Weights) -> ConstantLayer | None: ...
    def add_cast(self, input: Tensor, to_type: Enumerator) -> Layer | None: ...
    def add_shuffle(self, input: Tensor) -> ShuffleLayer | None: ...
    def add_gather(self, input: Tensor, indices: Tensor, axis: int) -> Layer | None: ...
    def add_slice(self, input: Tensor, start: Dims, shape: Dims, stride: Dims) -> SliceLayer | None: ...
    def add_unary(self, input: Tensor, op: Enumerator) -> Layer | None: ...
    def add_activation(self, input: Tensor, type: Enumerator) -> Layer | None: ...
    def add_elementwise(self, input1: Tensor, input2: Tensor, op: Enumerator) -> Layer | None: ...
    def add_reduce(self, input: Tensor, op: Enumerator, axes: int, keep_dims: bool) -> Layer | None: ...
    def add_matrix_multiply(self, input0: Tensor, op0: Enumerator, input1: Tensor, op1: Enumerator) -> Layer | None: ...
    def add_quantize(self, input: Tensor, scale: Tensor, output_type: Enumerator) -> QuantizationLayer | None: ...
    def add_dequantize(self, input: Tensor, scale: Tensor, output_type: Enumerator) -> QuantizationLayer | None: ...
    def add_rotary_embedding(
        self, input: Tensor, cos_cache: Tensor, sin_cache: Tensor, interleaved: bool, rotary_embedding_dim: int
    ) -> Layer | None: ...
    def add_kv_cache_update(
        self, cache: Tensor, update: Tensor, write_indices: Tensor, cache_mode: Enumerator
    ) -> KVCacheUpdateLayer | None: ...
    def add_concatenation(self, inputs: list[Tensor]) -> ConcatenationLayer | None: ...
    def add_plugin(self, func: PluginRequest, aot: bool) -> Layer | None: ...
    def add_attention_v2(
        self, query: Tensor, key: Tensor, value: Tensor, norm_op: Enumerator, causal_kind: Enumerator
    ) -> Attention | None: ...
    def mark_output(self, tensor: Tensor) -> None: ...
    def set_weights_name(self, weights: Weights, name: str) -> bool: ...
    def mark_weights_refittable(self, name: str) -> bool: ...


class OptimizationProfile(Protocol):
    """IOptimizationProfile."""

    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None: ...


class BuilderConfig(Protocol):
    """IBuilderConfig. The two compute capability members exist in tensorrt_rtx alone."""

    num_compute_capabilities: int
    profiling_verbosity: Enumerator

    def set_compute_capability(self, compute_capability: Enumerator, index: int) -> bool: ...
    def set_flag(self, flag: Enumerator) -> None: ...
    def clear_flag(self, flag: Enumerator) -> None: ...
    def set_preview_feature(self, feature: Enumerator, enable: bool) -> None: ...
    def add_optimization_profile(self, profile: OptimizationProfile) -> int: ...


class HostMemory(Protocol):
    """IHostMemory: a buffer of `nbytes`."""

    nbytes: int

    def __buffer__(self, flags: int, /) -> memoryview: ...


class Builder(Protocol):
    """Builder."""

    def create_network(self, flags: int) -> Network | None: ...
    def create_builder_config(self) -> BuilderConfig | None: ...
    def create_optimization_profile(self) -> OptimizationProfile | None: ...
    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None: ...


Made = TypeVar("Made")


def made(result: Made | None, what: str) -> Made:
    """The result of a call that returns None when it fails; `what` names the thing. Raises BuildError."""
    if result is None:
        raise BuildError(f"TensorRT refused to make {what}; its log says why.")
    return result
