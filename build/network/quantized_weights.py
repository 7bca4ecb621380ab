"""Quantized matrices as DequantizeLinear of initializers that point into the checkpoint's file.

A byte of int4 holds one input of two neighbouring outputs, and ONNX packs two neighbours of the last axis, low nibble
first. The bytes [out / 2, in] are therefore INT4 [out / 2, in, 2] as they lie in the file, and their scales, float32
[out, groups] there, are [out / 2, 2, groups].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.network.stored_tensors import stored_tensor
from inflight.convert.quantization.scheme import WeightQuantization
from inflight.tensor_file import TensorEntry

FLOAT = ir.DataType.FLOAT


class QuantizedWeights:
    """Makes float32 [in, out] of the integers and scales of a module."""

    def __init__(self, builder: GraphBuilder, table: Mapping[str, TensorEntry]) -> None:
        self._builder = builder
        self._table = table

    def int8(self, module: str, quantization: WeightQuantization, name: str) -> ir.Value:
        """One scale per output: DequantizeLinear along axis 0."""
        op, entry = self._builder.op, self._table[f"{module}.weight"]
        outputs, inputs = entry.shape
        levels = self._builder.initializer(entry.name, stored_tensor(entry))
        scale_name = quantization.scale_name(module)
        scales = self._builder.initializer(scale_name, stored_tensor(self._table[scale_name]))
        weight = op("DequantizeLinear", [levels, scales], f"{entry.name}.float32", FLOAT, entry.shape, {"axis": 0})
        return op("Transpose", [weight], name, FLOAT, (inputs, outputs), {"perm": [1, 0]})

    def float8(self, module: str, quantization: WeightQuantization, name: str) -> ir.Value:
        """One scale for the matrix: DequantizeLinear without an axis."""
        op, entry = self._builder.op, self._table[f"{module}.weight"]
        outputs, inputs = entry.shape
        levels = self._builder.initializer(entry.name, stored_tensor(entry))
        scale = self.scalar(quantization.scale_name(module))
        weight = op("DequantizeLinear", [levels, scale], f"{entry.name}.float32", FLOAT, entry.shape)
        return op("Transpose", [weight], name, FLOAT, (inputs, outputs), {"perm": [1, 0]})

    def scalar(self, name: str) -> ir.Value:
        """A tensor of one element as one without axes."""
        return self._builder.initializer(name, stored_tensor(self._table[name], shape=()))

    def int4(self, module: str, quantization: WeightQuantization, name: str) -> ir.Value:
        """One scale per group of inputs: DequantizeLinear in blocks along axis 1 of pairs of outputs."""
        op, entry = self._builder.op, self._table[f"{module}.weight"]
        pairs, inputs = entry.shape
        outputs = self._table[quantization.scale_name(module)].shape[0]
        shape = (pairs, inputs, 2)
        levels = self._builder.initializer(entry.name, stored_tensor(entry, dtype=ir.DataType.INT4, shape=shape))
        scales = self._pair_scales(quantization.scale_name(module), pairs)
        attributes = {"axis": 1, "block_size": quantization.group_size}
        weight = op("DequantizeLinear", [levels, scales], f"{entry.name}.float32", FLOAT, shape, attributes)
        turned = op("Transpose", [weight], f"{name}.pairs", FLOAT, (inputs, pairs, 2), {"perm": [1, 0, 2]})
        flat = self._builder.constant(f"weights.{inputs}_by_{2 * pairs}", [inputs, 2 * pairs])
        if outputs == 2 * pairs:
            return op("Reshape", [turned, flat], name, FLOAT, (inputs, outputs))
        padded = op("Reshape", [turned, flat], f"{name}.padded", FLOAT, (inputs, 2 * pairs))
        limits = {"start": 0, f"end_{outputs}": outputs, "axis": 1}
        bounds = [self._builder.constant(f"weights.slice_{text}", [value]) for text, value in limits.items()]
        return op("Slice", [padded, *bounds], name, FLOAT, (inputs, outputs))

    def _pair_scales(self, name: str, pairs: int) -> ir.Value:
        """Scales [out, groups] as [pairs, groups, 2]; the partner of a last odd output has scale 0."""
        op, entry = self._builder.op, self._table[name]
        outputs, groups = entry.shape
        if outputs == 2 * pairs:
            scales = self._builder.initializer(name, stored_tensor(entry, shape=(pairs, 2, groups)))
        else:
            stored = self._builder.initializer(name, stored_tensor(entry))
            zeros = self._builder.constant(f"weights.no_scales_{groups}", [[0.0] * groups], np.float32)
            padded = op("Concat", [stored, zeros], f"{name}.padded", FLOAT, (2 * pairs, groups), {"axis": 0})
            shape = self._builder.constant(f"weights.pairs_{pairs}_{groups}", [pairs, 2, groups])
            scales = op("Reshape", [padded, shape], f"{name}.split", FLOAT, (pairs, 2, groups))
        return op("Transpose", [scales], f"{name}.pairs", FLOAT, (pairs, groups, 2), {"perm": [0, 2, 1]})
