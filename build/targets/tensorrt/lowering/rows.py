"""Lowerings of operators that treat rows alike: lookups, products, norms and elementwise arithmetic."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.build.passes.rewrite import integer, number
from inflight.build.targets.tensorrt.api import Tensor, made
from inflight.build.targets.tensorrt.lowering import weights
from inflight.build.targets.tensorrt.lowering.layout import packed_axis, packed_permutation, packed_shape
from inflight.build.targets.tensorrt.lowering.lowered import Lowered, Operands, as_tensor, host_array
from inflight.build.targets.tensorrt.lowering.writer import NetworkWriter, Weight, data_type


def gather(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """Rows of the embedding table, in its stored type."""
    table, ids = operands[0], as_tensor(writer, operands[1])
    assert isinstance(table, Weight), "Gather reads a table of the checkpoint"
    return writer.gather(writer.stored(table.stored), ids, str(node.name))


def cast(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Lowered:
    """A cast weight is still a weight: where it is read decides its type."""
    (x,) = operands
    if isinstance(x, Weight):
        return x
    dtype = data_type(writer.trt, dtype_of(node.outputs[0]))
    return writer.cast(as_tensor(writer, x), dtype)


def transpose(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Lowered:
    (x,) = operands
    value = node.inputs[0]
    assert value is not None
    permutation = tuple(node.attributes["perm"].as_ints())
    if isinstance(x, Weight):
        return weights.transpose(x, permutation)
    return writer.transpose(as_tensor(writer, x), packed_permutation(value, permutation), str(node.name))


def reshape(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Lowered:
    """Reshape and Unsqueeze: the network's values carry their shapes."""
    x, shape = operands[0], packed_shape(node.outputs[0])
    if isinstance(x, Weight):
        return weights.reshape(x, shape)
    return writer.reshape(as_tensor(writer, x), shape, str(node.name))


def slice_(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Lowered:
    """The first columns of a weight."""
    weight, starts = operands[0], host_array(operands[1])
    assert isinstance(weight, Weight) and not starts.any(), f"{node.name} slices what is not a padded weight"
    return weights.columns(weight, packed_shape(node.outputs[0]))


def concat(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Lowered:
    """Constant rows behind a weight."""
    weight, rows = operands
    assert isinstance(weight, Weight) and integer(node, "axis", 0) == 0, f"{node.name} joins what is not a weight"
    return weights.concatenate(weight, host_array(rows))


def dequantize_linear(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Lowered:
    """Of weights; rows were brought back by quantize_linear."""
    levels, scale = operands[:2]
    if isinstance(levels, Weight):
        assert isinstance(scale, Weight), f"{node.name} has a scale that the checkpoint lacks"
        return weights.dequantize(node, levels, scale)
    return as_tensor(writer, levels)


def quantize_linear(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """Rows rounded at a constant scale, and back: the pair that TensorRT takes for an 8-bit product.

    What reads the result is the DequantizeLinear of the same scale, which has nothing left to do.
    """
    rows, scale = as_tensor(writer, operands[0]), _number(operands[1])
    dtype = dtype_of(node.outputs[0])
    return writer.quantized(writer.cast(rows, writer.compute_type), scale, dtype, str(node.name))


def _number(operand: Lowered | None) -> float:
    """A number known now, or one that the checkpoint has: TensorRT asks for scales of rows when it builds."""
    return float(operand.stored.read() if isinstance(operand, Weight) else host_array(operand))


def split(writer: NetworkWriter, node: ir.Node, operands: Operands) -> tuple[Tensor, ...]:
    """Equal strides along one axis; sizes are those of the outputs."""
    x, value = as_tensor(writer, operands[0]), node.inputs[0]
    assert value is not None
    axis = packed_axis(value, integer(node, "axis", 0))
    pieces, start = [], 0
    for output in node.outputs:
        size = packed_shape(output)[axis]
        layer = made(writer.network.add_slice(x, (start,), (size,), (1,)), name_of(output))
        layer.axes = (axis,)
        pieces.append(writer.done(layer, name_of(output)))
        start += size
    return tuple(pieces)


def mat_mul(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """x times a weight, both in the type of computation; the sum leaves it as float32."""
    x, weight = as_tensor(writer, operands[0]), operands[1]
    assert isinstance(weight, Weight), f"{node.name} multiplies by what is not a weight"
    operation = writer.trt.MatrixOperation
    layer = writer.network.add_matrix_multiply(
        writer.cast(x, writer.compute_type),
        operation.NONE,
        writer.weight(weight, writer.compute),
        operation.TRANSPOSE if weight.transposed else operation.NONE,
    )
    return writer.float32(writer.done(layer, f"{node.name}.product"))


def rms_normalization(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight in float32: normalization layers have no such mode."""
    x, weight, name = as_tensor(writer, operands[0]), operands[1], str(node.name)
    assert isinstance(weight, Weight) and packed_axis_is_last(node), f"{name} normalizes another axis"
    mean = writer.reduce_last(writer.elementwise(x, x, "PROD", f"{name}.squares"), "AVG", f"{name}.mean")
    epsilon = writer.scalar(number(node, "epsilon", 1e-5), mean, f"{name}.epsilon")
    root = writer.unary(writer.elementwise(mean, epsilon, "SUM", f"{name}.biased"), "SQRT", f"{name}.root")
    normed = writer.elementwise(x, root, "DIV", f"{name}.normed")
    return writer.elementwise(normed, writer.weight(weight, ir.DataType.FLOAT), "PROD", name)


def packed_axis_is_last(node: ir.Node) -> bool:
    value = node.inputs[0]
    assert value is not None
    return integer(node, "axis", -1) in (-1, len(shape_of(value)) - 1)


def swish(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """x * sigmoid(x)."""
    x, name = as_tensor(writer, operands[0]), str(node.name)
    gate = writer.network.add_activation(x, writer.trt.ActivationType.SIGMOID)
    return writer.elementwise(x, writer.done(gate, f"{name}.gate"), "PROD", name)


def range_(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Lowered:
    """A range of constants is a constant."""
    return np.arange(*(int(host_array(operand)) for operand in operands), dtype=np.int64)


def reduce_max(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """The greatest of the last axis, which stays as 1."""
    assert host_array(operands[1]).tolist() == [-1] and integer(node, "keepdims", 1), f"{node.name} reduces otherwise"
    return writer.reduce_last(as_tensor(writer, operands[0]), "MAX", str(node.name))


def clip(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    x, name = as_tensor(writer, operands[0]), str(node.name)
    low, high = (as_tensor(writer, operand, f"{name}.limit{index}") for index, operand in enumerate(operands[1:]))
    return writer.elementwise(writer.elementwise(x, low, "MAX", f"{name}.raised"), high, "MIN", name)


def less_or_equal(writer: NetworkWriter, node: ir.Node, operands: Operands) -> Tensor:
    """not (left > right), for TensorRT has no such comparison."""
    name = str(node.name)
    left, right = (as_tensor(writer, operand, f"{name}.operand") for operand in operands)
    return writer.unary(writer.elementwise(left, right, "GREATER", f"{name}.greater"), "NOT", name)
