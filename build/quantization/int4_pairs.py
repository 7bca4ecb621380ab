"""int4 with a scale per group of inputs, two outputs to a byte: DequantizeLinear in blocks along axis 1 of such pairs.

A byte of int4 holds one input of two neighbouring outputs, and ONNX packs two neighbours of the last axis, low nibble
first. The bytes [out / 2, in] are therefore INT4 [out / 2, in, 2] as they lie in the file, and their scales, float32
[out, groups] there, are [out / 2, 2, groups]. The fused operators read (out, in), so their integers get another view,
which is made when somebody asks for the elements.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import array_of, dtype_of, name_of, shape_of, tensor_of
from inflight.build.network.stored_tensors import initializer, seen_as, stored_tensor
from inflight.build.passes.rewrite import integer, is_permutation, produced_by
from inflight.build.quantization.stored_matrix import QuantizedMatrix, StoredMatrix
from inflight.convert.quantization.round_to_nearest import unpack_pairs
from inflight.files.tensor_file import TensorEntry

FLOAT = ir.DataType.FLOAT


def write(builder: GraphBuilder, matrix: StoredMatrix, name: str) -> ir.Value:
    """float32 [in, out], called `name`."""
    op, entry = builder.op, matrix.weight
    pairs, inputs = entry.shape
    shape = (pairs, inputs, 2)
    levels = builder.initializer(entry.name, stored_tensor(entry, dtype=ir.DataType.INT4, shape=shape))
    scales = _pair_scales(builder, matrix.scale, pairs)
    attributes = {"axis": 1, "block_size": matrix.group_size}
    weight = op("DequantizeLinear", [levels, scales], f"{entry.name}.float32", FLOAT, shape, attributes)
    return write_rows(builder, weight, matrix.scale.shape[0], name)


def write_rows(builder: GraphBuilder, weight: ir.Value, outputs: int, name: str) -> ir.Value:
    """float32 [in, out], called `name`, of [pairs, in, 2]."""
    op, (pairs, inputs) = builder.op, (int(dim) for dim in shape_of(weight)[:2])
    turned = op("Transpose", [weight], f"{name}.pairs", FLOAT, (inputs, pairs, 2), {"perm": [1, 0, 2]})
    flat = builder.constant(f"weights.{inputs}_by_{2 * pairs}", [inputs, 2 * pairs])
    if outputs == 2 * pairs:
        return op("Reshape", [turned, flat], name, FLOAT, (inputs, outputs))
    padded = op("Reshape", [turned, flat], f"{name}.padded", FLOAT, (inputs, 2 * pairs))
    limits = {"start": 0, f"end_{outputs}": outputs, "axis": 1}
    bounds = [builder.constant(f"weights.slice_{text}", [value]) for text, value in limits.items()]
    return op("Slice", [padded, *bounds], name, FLOAT, (inputs, outputs))


def _pair_scales(builder: GraphBuilder, entry: TensorEntry, pairs: int) -> ir.Value:
    """Scales [out, groups] as [pairs, groups, 2]; the partner of a last odd output has scale 0."""
    op, name = builder.op, entry.name
    outputs, groups = entry.shape
    if outputs == 2 * pairs:
        scales = builder.initializer(name, stored_tensor(entry, shape=(pairs, 2, groups)))
    else:
        stored = builder.initializer(name, stored_tensor(entry))
        zeros = builder.constant(f"weights.no_scales_{groups}", [[0.0] * groups], np.float32)
        padded = op("Concat", [stored, zeros], f"{name}.padded", FLOAT, (2 * pairs, groups), {"axis": 0})
        shape = builder.constant(f"weights.pairs_{pairs}_{groups}", [pairs, 2, groups])
        scales = op("Reshape", [padded, shape], f"{name}.split", FLOAT, (pairs, 2, groups))
    return op("Transpose", [scales], f"{name}.pairs", FLOAT, (pairs, groups, 2), {"perm": [0, 2, 1]})


def find(value: ir.Value | None) -> QuantizedMatrix | None:
    """The matrix behind float32 [in, out]."""
    weight = produced_by(find_rows(value), "DequantizeLinear")
    if value is None or weight is None:
        return None
    levels, scales = weight.inputs[0], produced_by(weight.inputs[1], "Transpose")
    if levels is None or levels.dtype != ir.DataType.INT4 or len(weight.inputs) != 2 or integer(weight, "axis", 1) != 1:
        return None
    inputs, outputs = shape_of(value)
    pairs = levels.is_initializer() and shape_of(levels) == (-(-int(outputs) // 2), inputs, 2)
    scale = None if scales is None or not is_permutation(scales, (0, 2, 1)) else _scale(scales.inputs[0], int(outputs))
    if not pairs or scale is None:
        return None
    return QuantizedMatrix(as_rows(levels, int(outputs), ml_dtypes.int4), scale, integer(weight, "block_size", 0))


def find_rows(value: ir.Value | None) -> ir.Value | None:
    """[pairs, in, 2] behind float32 [in, out]."""
    cut = produced_by(value, "Slice")
    flat = produced_by(value if cut is None else cut.inputs[0], "Reshape")
    turned = None if flat is None else produced_by(flat.inputs[0], "Transpose")
    if turned is None or not is_permutation(turned, (1, 0, 2)) or not _starts_at_zero(cut):
        return None
    return turned.inputs[0]


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
        return seen_as(name_of(value), tensor_of(value), (outputs, groups))
    reshape = produced_by(value, "Reshape")
    padded = None if reshape is None else produced_by(reshape.inputs[0], "Concat")
    stored = None if padded is None or integer(padded, "axis", 0) != 0 else padded.inputs[0]
    found = stored is not None and stored.is_initializer() and shape_of(stored)[0] == outputs
    return stored if found else None


def as_rows(levels: ir.Value, outputs: int, nibble: Any) -> ir.Value:
    """INT4 or UINT4 [pairs, in, 2] as the same [outputs, in]; `nibble` is ml_dtypes' type."""
    pairs, inputs, _ = (int(dim) for dim in shape_of(levels))
    stored, name, dtype = tensor_of(levels), name_of(levels), dtype_of(levels)

    def rows() -> ir.TensorProtocol:
        packed = np.frombuffer(stored.tobytes(), np.int8).reshape(pairs, inputs)
        levels = unpack_pairs(packed, outputs, signed=dtype == ir.DataType.INT4)
        return ir.Tensor(levels.astype(nibble), dtype=dtype, name=name)

    return initializer(name, ir.LazyTensor(rows, dtype, ir.Shape((outputs, inputs)), name=name))
