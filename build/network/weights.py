"""The checkpoint's tensors as initializers that point into its files."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import shape_of
from inflight.build.network.quantized_weights import QuantizedWeights
from inflight.build.network.stored_tensors import stored_tensor
from inflight.convert.checkpoint.directory import Checkpoint
from inflight.convert.quantization.scheme import ACTIVATION_SCALE_SUFFIX


class Weights:
    """Makes initializers by their checkpoint names, without reading a byte of them."""

    def __init__(self, builder: GraphBuilder, checkpoint: Checkpoint) -> None:
        self._builder = builder
        self._table = checkpoint.tensors
        self._quantization = checkpoint.quantization
        self._quantized = QuantizedWeights(builder, checkpoint.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._table

    def activation_bits(self, prefix: str) -> int | None:
        """To integers of how many bits the rows that meet `prefix`.weight are rounded; None when they are not."""
        quantization = self._quantization
        if quantization is None or not quantization.covers(prefix) or quantization.is_float8:
            return None
        return int(quantization.activations.removeprefix("int"))

    def float8_row_scale(self, prefix: str) -> ir.Value | None:
        """The one scale, float32 [], of rows that are rounded to 8-bit floats; None when they are not."""
        quantization = self._quantization
        if quantization is None or not quantization.covers(prefix) or not quantization.is_float8:
            return None
        return self._quantized.scalar(f"{prefix}{ACTIVATION_SCALE_SUFFIX}")

    def stored(self, name: str) -> ir.Value:
        """The tensor in the type in which it is stored."""
        return self._builder.initializer(name, stored_tensor(self._table[name]))

    def float32(self, name: str) -> ir.Value:
        """The tensor as float32: the initializer itself, or a Cast of it."""
        stored = self.stored(name)
        if stored.dtype == ir.DataType.FLOAT:
            return stored
        return self._builder.op(
            "Cast", [stored], f"{name}.float32", ir.DataType.FLOAT, shape_of(stored), {"to": ir.DataType.FLOAT.value}
        )

    def transposed(self, prefix: str, name: str) -> ir.Value:
        """`prefix`.weight (out, in) as float32 [in, out], in a value called `name`; levels times their scales."""
        quantization = self._quantization
        if quantization is not None and quantization.covers(prefix):
            if quantization.is_float8:
                return self._quantized.float8(prefix, quantization, name)
            if quantization.bits == 4:
                return self._quantized.int4(prefix, quantization, name)
            return self._quantized.int8(prefix, quantization, name)
        weight = self.float32(f"{prefix}.weight")
        outputs, inputs = shape_of(weight)
        return self._builder.op("Transpose", [weight], name, ir.DataType.FLOAT, (inputs, outputs), {"perm": [1, 0]})
