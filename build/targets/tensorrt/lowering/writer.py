"""NetworkWriter: what every lowering says through TensorRT's network API, each call checked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of
from inflight.build.targets.tensorrt.api import (
    Enumerator,
    Layer,
    Module,
    Network,
    PagedPlugins,
    PluginRequest,
    Tensor,
    made,
)
from inflight.build.targets.tensorrt.lowering.host_tensor import Array, HostTensor
from inflight.build.targets.tensorrt.lowering.layout import DYNAMIC


def data_type(trt: Module, dtype: ir.DataType) -> Enumerator:
    """TensorRT's type for an ONNX type."""
    name = facts_of(dtype).tensorrt
    assert name is not None, f"TensorRT has no {dtype.name}"
    return getattr(trt.DataType, name)


@dataclass(frozen=True)
class Scale:
    """What integers are multiplied by: one number, one for each index of `axis`, or one for each block along it."""

    values: HostTensor
    axis: int
    block_size: int


@dataclass(frozen=True)
class Weight:
    """A checkpoint tensor that is not in the network yet: where it is read decides in which type.

    `transposed` swaps the axes of a matrix after `scale`, if there is one, was applied.
    """

    stored: HostTensor
    transposed: bool = False
    scale: Scale | None = None


class WeightSource(Protocol):
    """How checkpoint tensors enter the network; see weights.py. `used` are those that have, in order."""

    used: list[HostTensor]

    def tensor(self, network: Network, host: HostTensor, dtype: Enumerator) -> Tensor: ...


class NetworkWriter:
    """Appends layers to a strongly typed network.

    Arithmetic is float32, except that products and attention read `compute`, the checkpoint's type. `paging` are the
    inputs that say where rows and sequences lie (network.py), `plugins` those of full TensorRT that read pages. Every
    method raises BuildError when TensorRT refuses.
    """

    def __init__(
        self,
        trt: Module,
        network: Network,
        compute: ir.DataType,
        weights: WeightSource,
        plugins: PagedPlugins | None = None,
    ) -> None:
        self.trt = trt
        self.plugins = plugins
        self.network = network
        self.compute = compute
        self.compute_type = data_type(trt, compute)
        self.paging: dict[str, Tensor] = {}
        self._weights = weights
        self._memory: list[Array] = []
        self._memo: dict[Hashable, Tensor] = {}

    def done(self, layer: Layer | None, name: str) -> Tensor:
        """The output of a layer that was just made, which is called `name`."""
        layer = made(layer, name)
        layer.name = name
        output = layer.get_output(0)
        output.name = name
        return output

    def constant(self, array: Array, name: str) -> Tensor:
        """A small constant of the network itself: float32 or int32."""
        wide = np.int32 if array.dtype.kind in "iu" else np.float32
        # TensorRT keeps a pointer, so the writer keeps the memory.
        self._memory.append(np.ascontiguousarray(array, dtype=wide))
        weights = self.trt.Weights(self._memory[-1])
        return self.done(self.network.add_constant(array.shape, weights), name)

    def scalar(self, value: float, like: Tensor, name: str) -> Tensor:
        """A float32 constant that broadcasts against `like`."""
        return self.constant(np.full([1] * len(like.shape), value, np.float32), name)

    def weight(self, weight: Weight, dtype: ir.DataType) -> Tensor:
        """A checkpoint tensor as `dtype`, its axes not yet swapped; read once however often it is asked for."""
        kind = data_type(self.trt, dtype)
        if weight.scale is None:
            return self.cast(self.stored(weight.stored), kind)
        name = f"{weight.stored.name}.{kind.name}"
        scale = weight.scale
        return self.once(name, lambda: self._dequantized(weight.stored, scale, dtype, name))

    def stored(self, host: HostTensor) -> Tensor:
        """A checkpoint tensor in the type in which it is stored."""
        dtype = data_type(self.trt, host.dtype)
        return self.once(host.name, lambda: self._weights.tensor(self.network, host, dtype))

    def quantized(self, tensor: Tensor, scale: float, dtype: ir.DataType, name: str) -> Tensor:
        """Rows rounded to `dtype` at one constant scale, and back to their own type."""
        constant = self.cast(self.constant(np.array(scale, np.float32), f"{name}.scale"), tensor.dtype)
        levels = self.network.add_quantize(tensor, constant, data_type(self.trt, dtype))
        rounded = self.done(levels, f"{name}.levels")
        return self.done(self.network.add_dequantize(rounded, constant, tensor.dtype), name)

    def cast(self, tensor: Tensor, dtype: Enumerator) -> Tensor:
        if tensor.dtype == dtype:
            return tensor
        name = f"{tensor.name}.{dtype.name}"
        return self.once(name, lambda: self.done(self.network.add_cast(tensor, dtype), name))

    def float32(self, tensor: Tensor) -> Tensor:
        return self.cast(tensor, self.trt.DataType.FLOAT)

    def reshape(self, tensor: Tensor, shape: Sequence[int], name: str) -> Tensor:
        """At most one dimension is DYNAMIC."""
        if tuple(tensor.shape) == tuple(shape):
            return tensor
        layer = made(self.network.add_shuffle(tensor), name)
        layer.reshape_dims = tuple(shape)
        return self.done(layer, name)

    def transpose(self, tensor: Tensor, permutation: Sequence[int], name: str) -> Tensor:
        if list(permutation) == sorted(permutation):
            return tensor
        layer = made(self.network.add_shuffle(tensor), name)
        layer.first_transpose = tuple(permutation)
        return self.done(layer, name)

    def elementwise(self, left: Tensor, right: Tensor, operation: str, name: str) -> Tensor:
        """Any of ElementWiseOperation; the smaller rank gets leading axes of 1."""
        rank = max(len(left.shape), len(right.shape))
        left, right = (self._widened(tensor, rank) for tensor in (left, right))
        kind = getattr(self.trt.ElementWiseOperation, operation)
        return self.done(self.network.add_elementwise(left, right, kind), name)

    def unary(self, tensor: Tensor, operation: str, name: str) -> Tensor:
        return self.done(self.network.add_unary(tensor, getattr(self.trt.UnaryOperation, operation)), name)

    def reduce_last(self, tensor: Tensor, operation: str, name: str) -> Tensor:
        """Reduce the last axis to size 1."""
        kind = getattr(self.trt.ReduceOperation, operation)
        return self.done(self.network.add_reduce(tensor, kind, 1 << (len(tensor.shape) - 1), True), name)

    def gather(self, tensor: Tensor, indices: Tensor, name: str) -> Tensor:
        """Rows of `tensor`: indices of any shape S give S + tensor.shape[1:]."""
        return self.done(self.network.add_gather(tensor, indices, 0), name)

    def concatenated(self, tensors: Sequence[Tensor], name: str) -> Tensor:
        """The rows of one tensor after those of another."""
        layer = made(self.network.add_concatenation(list(tensors)), name)
        layer.axis = 0
        return self.done(layer, name)

    def plugin(self, request: PluginRequest, outputs: Sequence[str], name: str) -> list[Tensor]:
        """A plugin compiled ahead of time: its outputs, which are called `name`.`output`."""
        layer = made(self.network.add_plugin(request, True), name)
        layer.name = name
        tensors = [layer.get_output(index) for index in range(len(outputs))]
        for tensor, output in zip(tensors, outputs, strict=True):
            tensor.name = f"{name}.{output}"
        return tensors

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What all layers share is made by the first that asks."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def _widened(self, tensor: Tensor, rank: int) -> Tensor:
        missing = rank - len(tensor.shape)
        if not missing:
            return tensor
        shape = (*[1] * missing, *(DYNAMIC if dim < 0 else dim for dim in tensor.shape))
        return self.reshape(tensor, shape, f"{tensor.name}.rank{rank}")

    def _dequantized(self, levels: HostTensor, scale: Scale, dtype: ir.DataType, name: str) -> Tensor:
        # TensorRT wants scales that are constants of the output's type, so the host casts them.
        scales = self.stored(scale.values.cast(dtype))
        layer = made(self.network.add_dequantize(self.stored(levels), scales, data_type(self.trt, dtype)), name)
        if not scale.block_size and len(scale.values.shape) == 1:
            layer.axis = scale.axis
        return self.done(layer, name)
