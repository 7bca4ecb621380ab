"""Recognizes quantized matrices in the standard network: integers and scales behind a float32 [in, out].

The pattern is that of build/network/quantized_weights.py. int4 comes as pairs of outputs; the fused operators read
(out, in), so its integers get another view, which is made when somebody asks for the elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir

from inflight.build.graph.values import array_of, name_of, shape_of, tensor_of
from inflight.build.passes.rewrite import integer, is_permutation, produced_by
from inflight.convert.quantization.round_to_nearest import unpack_pairs


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """Integers [out, in] with scales [out], or [out, groups] of `group_size` inputs each.

    `weight` and `scale` are initializers of the graph, or for int4 shall replace the ones of the same names.
    """

    weight: ir.Value
    scale: ir.Value
    group_size: int


def quantized_matrix(transposed: ir.Value | None) -> QuantizedMatrix | None:
    """The integers behind float32 [in, out], if that is what it is."""
    return _int8(transposed) or _int4(transposed)


def _int8(value: ir.Value | None) -> QuantizedMatrix | None:
    transpose = produced_by(value, "Transpose")
    weight = None if transpose is None else produced_by(transpose.inputs[0], "DequantizeLinear")
    if transpose is None or weight is None or not is_permutation(transpose, (1, 0)) or len(weight.inputs) != 2:
        return None
    levels, scale = weight.inputs
    if levels is None or scale is None or not (levels.is_initializer() and scale.is_initializer()):
        return None
    per_output = integer(weight, "axis", 1) == 0 and integer(weight, "block_size", 0) == 0
    if levels.dtype != ir.DataType.INT8 or not per_output or len(shape_of(scale)) != 1:
        return None
    return QuantizedMatrix(levels, scale, 0)


def _int4(value: ir.Value | None) -> QuantizedMatrix | None:
    cut = produced_by(value, "Slice")
    flat = produced_by(value if cut is None else cut.inputs[0], "Reshape")
    turned = None if flat is None else produced_by(flat.inputs[0], "Transpose")
    weight = None if turned is None else produced_by(turned.inputs[0], "DequantizeLinear")
    if value is None or turned is None or weight is None or not is_permutation(turned, (1, 0, 2)):
        return None
    levels, scales = weight.inputs[0], produced_by(weight.inputs[1], "Transpose")
    if levels is None or levels.dtype != ir.DataType.INT4 or len(weight.inputs) != 2 or integer(weight, "axis", 1) != 1:
        return None
    inputs, outputs = shape_of(value)
    pairs = levels.is_initializer() and shape_of(levels) == (-(-int(outputs) // 2), inputs, 2)
    scale = None if scales is None or not is_permutation(scales, (0, 2, 1)) else _scale(scales.inputs[0], int(outputs))
    if not pairs or scale is None or not _starts_at_zero(cut):
        return None
    return QuantizedMatrix(_as_rows(levels, int(outputs)), scale, integer(weight, "block_size", 0))


def _starts_at_zero(cut: ir.Node | None) -> bool:
    """True when `cut` keeps the first columns, or all of them."""
    if cut is None:
        return True
    starts, axes = (array_of(cut.inputs[index]) for index in (1, 3))
    return starts is not None and axes is not None and starts.tolist() == [0] and axes.tolist() == [1]


def _scale(value: ir.Value | None, outputs: int) -> ir.Value | None:
    """Scales [outputs, groups] behind [pairs, 2, groups]."""
    if value is None:
        return None
    if value.is_initializer():
        groups = int(shape_of(value)[2])
        return _initializer(name_of(value), _seen_as(tensor_of(value), (outputs, groups)))
    reshape = produced_by(value, "Reshape")
    padded = None if reshape is None else produced_by(reshape.inputs[0], "Concat")
    stored = None if padded is None or integer(padded, "axis", 0) != 0 else padded.inputs[0]
    found = stored is not None and stored.is_initializer() and shape_of(stored)[0] == outputs
    return stored if found else None


def _seen_as(tensor: ir.TensorProtocol, shape: tuple[int, int]) -> ir.TensorProtocol:
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            location=tensor.location,
            offset=tensor.offset,
            length=tensor.length,
            dtype=tensor.dtype,
            shape=ir.Shape(shape),
            name=tensor.name or "",
            base_dir=tensor.base_dir,
        )
    return ir.tensor(tensor.numpy().reshape(shape), name=tensor.name)


def _as_rows(levels: ir.Value, outputs: int) -> ir.Value:
    """INT4 [pairs, in, 2] as INT4 [outputs, in]."""
    pairs, inputs, _ = (int(dim) for dim in shape_of(levels))
    stored, name = tensor_of(levels), name_of(levels)

    def rows() -> ir.TensorProtocol:
        packed = np.frombuffer(stored.tobytes(), np.int8).reshape(pairs, inputs)
        return ir.Tensor(unpack_pairs(packed, outputs).astype(ml_dtypes.int4), dtype=ir.DataType.INT4, name=name)

    return _initializer(name, ir.LazyTensor(rows, ir.DataType.INT4, ir.Shape((outputs, inputs)), name=name))


def _initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor)
