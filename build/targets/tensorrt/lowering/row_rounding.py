"""Passes over the standard network of a quantized checkpoint: where its rounded rows go on a GPU.

The standard network rounds the rows of a quantized product to integers and back: levels * scale, one scale per row
(build/network/quantized_rows.py). TensorRT multiplies 8-bit rows only between QuantizeLinear and DequantizeLinear of a
constant scale, so the row's own scale moves behind the product, where it is one number per row of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from inflight.build.graph.operators import GREATEST_LEVEL
from inflight.build.graph.values import array_of, dtype_of, name_of, new_value, shape_of
from inflight.build.passes.rewrite import nodes_of, produced_by, replace
from inflight.convert.quantization.schemes import RowDtype

FLOAT = ir.DataType.FLOAT
# Levels over 2^7 lie within -1 .. 1, so that no product leaves the range of float16; powers of two cost no rounding.
_UNIT = 2.0**-7


@dataclass(frozen=True)
class _RoundedRows:
    """levels = clip(round(scaled)); result = levels * scale."""

    source: ir.Value
    scaled: ir.Value
    levels: ir.Value
    scale: ir.Value
    result: ir.Value
    dtype: RowDtype


def keep_wide_rows(graph: ir.Graph) -> None:
    """Rows that would be rounded to 16-bit integers stay as they are.

    The rounding is for machines that multiply integers; a GPU reads the rows of weight-only products in its own type.
    """
    for rows in list(_rounded_rows(graph)):
        if rows.dtype == "int16":
            replace(graph, [rows.result], [rows.source])


def place_row_scales(graph: ir.Graph) -> None:
    """8-bit rows go to their products as levels / 2^7, and the row's scale * 2^7 multiplies the result.

    Ahead of 8-bit weights the levels pass through QuantizeLinear and DequantizeLinear.
    """
    for rows in list(_rounded_rows(graph)):
        products = [use.node for use in rows.result.uses()]
        if rows.dtype != "int8" or any(product.op_type != "MatMul" for product in products):
            continue
        name = name_of(rows.result)
        unit = _constant(graph, "rows.unit", _UNIT)
        narrow = _before(graph, products[0], "Mul", [rows.scaled, unit], f"{name}.narrow", shape_of(rows.scaled))
        plain = _before(graph, products[0], "Mul", [rows.levels, unit], f"{name}.levels", shape_of(rows.levels))
        wide = _before(graph, products[0], "Div", [rows.scale, unit], f"{name}.wide_scale", shape_of(rows.scale))
        integers = _quantized(graph, products[0], narrow, unit, name)
        for product in products:
            product.replace_input_with(0, integers if _is_int8(product) else plain)
            _scale_result(graph, product, wide)


def _rounded_rows(graph: ir.Graph) -> Iterator[_RoundedRows]:
    for node in nodes_of(graph, "Mul"):
        levels, scale = node.inputs
        clip = produced_by(levels, "Clip")
        rounding = None if clip is None else produced_by(clip.inputs[0], "Round")
        scaling = None if rounding is None else produced_by(rounding.inputs[0], "Mul")
        if clip is None or rounding is None or scaling is None or levels is None or scale is None:
            continue
        limit = array_of(clip.inputs[2])
        dtypes = [dtype for dtype, greatest in GREATEST_LEVEL.items() if limit is not None and limit == greatest]
        source, scaled = scaling.inputs[0], rounding.inputs[0]
        if dtypes and source is not None and scaled is not None:
            yield _RoundedRows(source, scaled, levels, scale, node.outputs[0], dtypes[0])


def _is_int8(product: ir.Node) -> bool:
    """Does the product read a weight of 8-bit integers?"""
    transpose = produced_by(product.inputs[1], "Transpose")
    dequantize = None if transpose is None else produced_by(transpose.inputs[0], "DequantizeLinear")
    levels = None if dequantize is None else dequantize.inputs[0]
    return levels is not None and dtype_of(levels) == ir.DataType.INT8


def _quantized(graph: ir.Graph, anchor: ir.Node, rows: ir.Value, unit: ir.Value, name: str) -> ir.Value:
    zero = _constant(graph, "rows.zero", 0, np.int8)
    shape, levels = shape_of(rows), f"{name}.quantized"
    quantized = _before(graph, anchor, "QuantizeLinear", [rows, unit, zero], levels, shape, ir.DataType.INT8)
    return _before(graph, anchor, "DequantizeLinear", [quantized, unit, zero], f"{name}.dequantized", shape)


def _scale_result(graph: ir.Graph, product: ir.Node, scale: ir.Value) -> None:
    result, name = product.outputs[0], name_of(product.outputs[0])
    scaled = new_value(name, FLOAT, shape_of(result))
    result.replace_all_uses_with(scaled, replace_graph_outputs=True)
    result.name = product.name = f"{name}.unscaled"
    graph.insert_after(product, ir.node("Mul", [result, scale], outputs=[scaled], name=name))


def _before(
    graph: ir.Graph,
    anchor: ir.Node,
    op_type: str,
    inputs: list[ir.Value],
    name: str,
    shape: tuple[int | str, ...],
    dtype: ir.DataType = FLOAT,
) -> ir.Value:
    value = new_value(name, dtype, shape)
    graph.insert_before(anchor, ir.node(op_type, inputs, outputs=[value], name=name))
    return value


def _constant(graph: ir.Graph, name: str, number: float, dtype: type[np.generic] = np.float32) -> ir.Value:
    if name not in graph.initializers:
        value = new_value(name, ir.DataType.from_numpy(np.dtype(dtype)), ())
        value.const_value = ir.tensor(np.array(number, dtype), name=name)
        graph.register_initializer(value)
    return graph.initializers[name]
