"""Runs a live TensorRT network in NumPy, layer by layer, by the documented meaning of each layer.

The judge of what the builder wrote where no GPU is: it reads layers, attributes and types back through TensorRT's own
API. It proves the wiring, not NVIDIA's kernels. Arithmetic is float32, rounded to each tensor's type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from inflight.build.targets.tensorrt.api import Module, Tensor
from inflight.build.targets.tensorrt.lowering.host_tensor import Array
from inflight.errors import BuildError
from tests.oracles.tensorrt_layers import LAYERS, attend

Values: TypeAlias = dict[str, Array]

# The layer classes by LayerType: get_layer gives the base class, and the attributes are on the derived ones.
_CLASSES = {
    "CONSTANT": "IConstantLayer",
    "CAST": "ICastLayer",
    "SHUFFLE": "IShuffleLayer",
    "GATHER": "IGatherLayer",
    "CONCATENATION": "IConcatenationLayer",
    "SLICE": "ISliceLayer",
    "UNARY": "IUnaryLayer",
    "ACTIVATION": "IActivationLayer",
    "ELEMENTWISE": "IElementWiseLayer",
    "REDUCE": "IReduceLayer",
    "MATRIX_MULTIPLY": "IMatrixMultiplyLayer",
    "QUANTIZE": "IQuantizeLayer",
    "DEQUANTIZE": "IDequantizeLayer",
    "ROTARY_EMBEDDING": "IRotaryEmbeddingLayer",
    "KV_CACHE_UPDATE": "IKVCacheUpdateLayer",
    "ATTENTION_INPUT": "IAttentionInputLayer",
    "ATTENTION_OUTPUT": "IAttentionOutputLayer",
}
_NUMPY: dict[str, Any] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "INT8": np.int8,
    "INT4": ml_dtypes.int4,
    "FP8": ml_dtypes.float8_e4m3fn,
    "INT32": np.int32,
    "BOOL": np.bool_,
}


def numpy_type(dtype: Any) -> Any:
    """The NumPy or ml_dtypes type of a TensorRT DataType."""
    return _NUMPY[dtype.name]


def derived(trt: Module, layer: Any) -> tuple[str, Any]:
    """The kind of a layer (its LayerType) and the layer with the attributes of its own class.

    Raises BuildError for a kind that the interpreter does not know.
    """
    kind = layer.type.name
    if kind not in _CLASSES:
        raise BuildError(f"The interpreter knows no layer of kind {kind} ({layer.name}).")
    layer.__class__ = getattr(trt, _CLASSES[kind])
    return kind, layer


@dataclass(frozen=True)
class PluginCall:
    """One plugin of a network: the tensors that it reads and writes, and its meaning in NumPy.

    The interpreter finds no plugins by itself: what is inside of one is not TensorRT's to tell.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    compute: Callable[..., Sequence[Array]]


class TensorRtInterpreter:
    """Evaluates a network. `weights` holds, by name, the checkpoint tensors that the network has no values for.

    The outputs of `plugins` are inputs of the network where TensorRT has no plugins, and are not asked for.
    """

    def __init__(
        self, trt: Module, network: Any, weights: Mapping[str, Array], plugins: Sequence[PluginCall] = ()
    ) -> None:
        self._trt = trt
        self._network = network
        self._weights = weights
        self._plugins = {tensor.name: call for call in plugins for tensor in call.outputs}
        self._layers = [derived(trt, network.get_layer(index)) for index in range(network.num_layers)]

    def run(self, inputs: Mapping[str, Array]) -> Values:
        """Every output of the network by name. Caches among the inputs are left as they are; take them from the result.

        Raises BuildError when an input is missing, of another type, or does not fit its declared shape.
        """
        given = {*inputs, *self._plugins}
        values = {**{name: self._weights[name] for name in self._input_names() if name not in given}, **inputs}
        self._check_inputs(values)
        for kind, layer in self._layers:
            self._evaluate(kind, layer, values)
        return {tensor.name: values[tensor.name] for tensor in self._outputs()}

    def _evaluate(self, kind: str, layer: Any, values: Values) -> None:
        output = layer.get_output(0)
        if kind == "CONSTANT":
            result = self._constant(layer)
        elif kind == "ATTENTION_INPUT":
            result = attend(layer.attention, lambda tensor: values[tensor.name])
        elif kind == "ATTENTION_OUTPUT":
            result = values[layer.get_input(0).name]
        else:
            operands = [self._value(layer.get_input(index), values) for index in range(layer.num_inputs)]
            result = LAYERS[kind](layer, *operands)
        dtype = numpy_type(output.dtype)
        values[output.name] = result if result.dtype == dtype else result.astype(dtype)

    def _value(self, tensor: Tensor, values: Values) -> Array:
        """What a layer reads; a plugin runs when its first output is asked for."""
        name = tensor.name
        if name not in values and name in self._plugins:
            call = self._plugins[name]
            results = call.compute(*(self._value(operand, values) for operand in call.inputs))
            for output, result in zip(call.outputs, results, strict=True):
                values[output.name] = result.astype(numpy_type(output.dtype))
        return values[name]

    def _constant(self, layer: Any) -> Array:
        if layer.name in self._weights:
            return self._weights[layer.name]
        values: Array = np.asarray(layer.weights)
        return values.reshape(tuple(layer.shape))

    def _input_names(self) -> list[str]:
        return [self._network.get_input(index).name for index in range(self._network.num_inputs)]

    def _outputs(self) -> list[Any]:
        return [self._network.get_output(index) for index in range(self._network.num_outputs)]

    def _check_inputs(self, values: Mapping[str, Array]) -> None:
        for index in range(self._network.num_inputs):
            tensor = self._network.get_input(index)
            if tensor.name in self._plugins:
                continue
            value = values[tensor.name]
            fits = len(tensor.shape) == value.ndim and all(
                declared in (-1, size) for declared, size in zip(tensor.shape, value.shape, strict=False)
            )
            if not fits or value.dtype != numpy_type(tensor.dtype):
                raise BuildError(
                    f"{tensor.name} is {value.dtype} {value.shape}; the network takes {tensor.dtype} {tensor.shape}."
                )
