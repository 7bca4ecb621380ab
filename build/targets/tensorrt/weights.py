"""How the checkpoint's tensors enter a network: left out and refitted, bound as inputs, or inside the plan."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from inflight.build.targets.tensorrt.api import ConstantLayer, Dims, Enumerator, Module, Network, Tensor, Weights, made
from inflight.build.targets.tensorrt.writer import Array
from inflight.build.values import name_of, shape_of, tensor_of
from inflight.errors import BuildError


class PlanWeights:
    """Every weight lies in the plan. TensorRT keeps pointers, so this object must live until the build has ended."""

    def __init__(self, trt: Module) -> None:
        self._trt = trt
        self._memory: list[Array] = []

    def tensor(self, network: Network, value: ir.Value, dtype: Enumerator) -> Tensor:
        data = np.frombuffer(tensor_of(value).tobytes(), np.uint8)
        self._memory.append(data)
        weights = self._trt.Weights(dtype, data.ctypes.data, prod(_dims(value)))
        return _constant(network, value, weights).get_output(0)


class RefitWeights:
    """No weight lies in the plan: each is a named placeholder that the loader refits from the weights file.

    The plan is built with STRIP_PLAN and REFIT_INDIVIDUAL. `names` are the placeholders in the order of their use.
    """

    def __init__(self, trt: Module) -> None:
        self._trt = trt
        self.names: list[str] = []

    def tensor(self, network: Network, value: ir.Value, dtype: Enumerator) -> Tensor:
        layer = _constant(network, value, self._trt.Weights(dtype, 0, prod(_dims(value))))
        name = name_of(value)
        # The layer's own view of the weights is what the network knows them by.
        if not network.set_weights_name(layer.weights, name) or not network.mark_weights_refittable(name):
            raise BuildError(f"TensorRT cannot leave the weights {name} out of the plan.", "Build with --weights plan.")
        self.names.append(name)
        return layer.get_output(0)


class InputWeights:
    """Each weight is an input of the network, bound to device memory when the engine is loaded."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def tensor(self, network: Network, value: ir.Value, dtype: Enumerator) -> Tensor:
        name = name_of(value)
        self.names.append(name)
        return made(network.add_input(name, dtype, _dims(value)), name)


def _constant(network: Network, value: ir.Value, weights: Weights) -> ConstantLayer:
    name = name_of(value)
    layer = made(network.add_constant(_dims(value), weights), name)
    layer.name = layer.get_output(0).name = name
    return layer


def _dims(value: ir.Value) -> Dims:
    dims = shape_of(value)
    assert all(isinstance(dim, int) for dim in dims), f"{value.name} is a weight of unknown shape"
    return [int(dim) for dim in dims]
