"""Operators of quantized rows and weights: one function for each, the call of its kernel."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.quantized_rows import DIGITS
from inflight.build.graph.values import dtype_of
from inflight.build.targets.cpu.codebook import codebook_literal
from inflight.build.targets.cpu.float8 import FLOAT8, FLOAT_ROWS, float8_row, stored_scale
from inflight.build.targets.cpu.operators.attributes import (
    activation,
    input_of,
    integer,
    number,
    optional_input,
    width_of,
)
from inflight.build.targets.cpu.operators.calls import Argument, KernelCall, Places
from inflight.build.targets.cpu.packing.float8_panels import Float8Shape
from inflight.build.targets.cpu.packing.weight_layout import element_of, quantized_panels, scale_element
from inflight.errors import BuildError


def quantize_rows(node: ir.Node, places: Places) -> KernelCall:
    x, (y, y_scale) = input_of(node, 0), node.outputs
    inputs = (places.rows(y), places.read(x, "const void *"))
    outputs = (places.write(y, "void *"), places.write(y_scale))
    factors, order = optional_input(node, 4), optional_input(node, 5)
    inputs_as = (places.weight("floats", factors), places.weight("numbers", order))
    if dtype_of(y) in FLOAT_ROWS:
        if order is not None:
            raise BuildError(f"{y.name} has an order, in which the cpu target reads rows of integers alone.")
        arguments = (*inputs, inputs_as[0], _stored_scale(node, 1), *outputs)
        return KernelCall("float8_rows", (element_of(x), float8_row(y, node.inputs[1:4])), arguments)
    constants = (element_of(x), quantized_row(y, optional_input(node, 1)))
    if factors is None and order is None:
        return KernelCall("quantize_rows", constants, inputs + outputs)
    return KernelCall("quantize_read_rows", constants, (*inputs, *inputs_as, *outputs))


def rms_norm_quantize(node: ir.Node, places: Places) -> KernelCall:
    x, weight, (y, y_scale) = input_of(node, 0), input_of(node, 1), node.outputs
    inputs = (places.rows(y), places.read(x), places.weight("floats", weight))
    outputs = (places.write(y, "void *"), places.write(y_scale))
    if dtype_of(y) in FLOAT_ROWS:
        constants = (float8_row(y, node.inputs[2:]), number(node, "epsilon"))
        return KernelCall("rms_norm_float8_rows", constants, (*inputs, _stored_scale(node, 2), *outputs))
    constants = (quantized_row(y, optional_input(node, 2)), number(node, "epsilon"))
    return KernelCall("rms_norm_quantize", constants, inputs + outputs)


def quantized_linear(node: ir.Node, places: Places) -> KernelCall:
    x, x_scale, weight, scale = (input_of(node, i) for i in range(4))
    y = node.outputs[0]
    inputs = (places.rows(y), places.read(x, "const void *"), places.read(x_scale))
    zero, unit = optional_input(node, 5), optional_input(node, 8)
    packed = (
        places.weight("quantized_panels", weight, scale, zero, unit),
        places.weight("floats", optional_input(node, 4)),
    )
    arguments = (*inputs, *packed, places.read_optional(optional_input(node, 6)), places.write(y))
    kernel, constants = _quantized_product(node, zero, optional_input(node, 7))
    return KernelCall(f"{kernel}_linear", (*constants, width_of(y)), arguments)


def quantized_gated_linear(node: ir.Node, places: Places) -> KernelCall:
    x, x_scale, *weights = (input_of(node, i) for i in range(6))
    y = node.outputs[0]
    inputs = (places.rows(y), places.read(x, "const void *"), places.read(x_scale))
    biases = places.weight("gated_floats", optional_input(node, 6), optional_input(node, 7))
    zeros, units = ([optional_input(node, i) for i in each] for each in ((8, 9), (11, 12)))
    packed = places.weight("gated_quantized_panels", *weights, *zeros, *units)
    arguments = (*inputs, packed, biases, places.write(y))
    kernel, constants = _quantized_product(node, zeros[0], optional_input(node, 10))
    return KernelCall(f"{kernel}_gated_linear", (*constants, activation(node), width_of(y)), arguments)


def gate_whole_rows(node: ir.Node, places: Places) -> KernelCall:
    x, gate, y = input_of(node, 0), input_of(node, 1), node.outputs[0]
    return KernelCall(
        "gate_whole_rows", (width_of(y),), (places.rows(y), places.read(x), places.read(gate), places.write(y))
    )


def _quantized_product(node: ir.Node, zero: ir.Value | None, codebook: ir.Value | None) -> tuple[str, tuple[str, ...]]:
    """The kernels' family, and the constants of a product: its k, or a `quantized_shape` of kernels/qshape.h.

    `zero` are the zero points of its weights, `codebook` the table of codes.
    """
    x, weight, scale = input_of(node, 0), input_of(node, 2), input_of(node, 3)
    size = int(integer(node, "group_size"))
    if dtype_of(weight) == FLOAT8:
        return "float8", (float8_literal(weight, scale, size),)
    return "quantized", (quantized_literal(weight, scale, size, dtype_of(x), zero, codebook),)


def float8_literal(weight: ir.Value, scale: ir.Value, group_size: int) -> str:
    """A `float8_shape` of kernels/float8.h, of weights [N, K]."""
    shape = quantized_panels(weight, scale, group_size, zeros=False)
    assert isinstance(shape, Float8Shape), f"{weight.name} are 8-bit floats"
    return f"(float8_shape){{{shape.width}, {shape.group}}}"


def quantized_literal(
    weight: ir.Value,
    scale: ir.Value,
    group_size: int,
    rows: ir.DataType,
    zero: ir.Value | None,
    codebook: ir.Value | None,
) -> str:
    """A `quantized_shape` of kernels/qshape.h, of integer weights [N, K] that meet rows of this type."""
    shape = quantized_panels(weight, scale, group_size, zeros=zero is not None)
    if isinstance(shape, Float8Shape) or shape.coded != (codebook is not None):
        has = "a" if isinstance(shape, Float8Shape) or not shape.coded else "no"
        raise BuildError(f"{weight.name} has {has} codebook, and its type is {dtype_of(weight).name}.")
    row, table = _row_literal(rows, shape.width, shape.group), codebook_literal(codebook)
    facts = f"{shape.bits}, {scale_element(scale)}, {row}, {int(shape.zeros)}, {table}"
    return f"(quantized_shape){{{facts}}}"


def _stored_scale(node: ir.Node, index: int) -> Argument:
    """The scale of all rows, as a number; 0 where each row has its own."""
    return Argument("float", stored_scale(optional_input(node, index)))


def quantized_row(y: ir.Value, stored: ir.Value | None) -> str:
    """A `quantized_row` of kernels/quantize.h: sums of activations are kept for the groups of the product behind.
    `stored` is the one scale of all rows.
    """
    width = int(width_of(y))
    groups = {int(integer(node, "group_size")) for node in y.consumers()} or {0}
    if len(groups) > 1:
        raise BuildError(f"{y.name} is read by products with groups of {sorted(groups)}; they must be of one size.")
    group = groups.pop()
    return _row_literal(dtype_of(y), width, group if 0 < group < width else width, stored)


def _row_literal(rows: ir.DataType, width: int, group: int, stored: ir.Value | None = None) -> str:
    scale = "" if stored is None else f", {stored_scale(stored)}"
    return f"(quantized_row){{{DIGITS[rows]}, {width}, {group}{scale}}}"
