"""Rows rounded and back become QuantizeRows and a DequantizeLinear, which the products then take up.

What rounded rows look like is told by their forms (build/quantization). A Mul by stored factors ahead of it is part of
it, and so is a Gather in a stored order. Products of the same rows with the same stored scale, factors and order read
one QuantizeRows.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.quantized_rows import FLOAT8_AS_INTEGERS, FLOAT8_INTEGERS
from inflight.build.graph.values import array_of, dtype_of, name_of, new_value, shape_of
from inflight.build.network.experts.layer import DOMAIN as EXPERTS_DOMAIN
from inflight.build.passes.rewrite import fused, like, nodes_of, replace
from inflight.build.quantization.forms import find_matrix, find_rows, find_stack
from inflight.build.quantization.rows import ordered_rows, scaled_rows
from inflight.build.quantization.stored_matrix import QuantizedMatrix, RoundedRows


def fuse_quantize_rows(graph: ir.Graph) -> None:
    made: dict[tuple[object, ...], ir.Value] = {}
    mixtures = [node for node in graph if node.domain == EXPERTS_DOMAIN]
    for product in (*nodes_of(graph, "MatMul"), *mixtures):
        rows = find_rows(product.inputs[0])
        if rows is None:
            continue
        source, factors = scaled_rows.find(rows.x) or (rows.x, None)
        source, order = ordered_rows.find(source) or (source, None)
        dtype = _held_as(rows, _matrix(product))
        key = (id(source), rows.dtype, dtype, _number(rows.stored), _contents(factors), _contents(order))
        shared = rows.stored is not None or factors is not None or order is not None
        result = made.get(key) if shared else None
        if result is None:
            result = _quantize(graph, rows, dtype, source, _constants(rows, factors, order))
            made[key] = result
        replace(graph, [rows.result], [result])


def _matrix(product: ir.Node) -> QuantizedMatrix | None:
    """What the rows of a product, or of a mixture of experts, meet, if it is quantized."""
    mixes = product.domain == EXPERTS_DOMAIN
    return find_stack(product.inputs[2]) if mixes else find_matrix(product.inputs[1])


def _held_as(rows: RoundedRows, matrix: QuantizedMatrix | None) -> ir.DataType:
    """The type of the levels: 8-bit floats in front of integer weights are integers too."""
    integers = matrix is not None and dtype_of(matrix.weight) in (ir.DataType.INT4, ir.DataType.INT8)
    if rows.dtype == "float8_e4m3fn" and rows.stored is not None and integers:
        return FLOAT8_INTEGERS
    return onnx_dtype(rows.dtype)


def _quantize(
    graph: ir.Graph, rows: RoundedRows, dtype: ir.DataType, source: ir.Value, constants: Sequence[ir.Value | None]
) -> ir.Value:
    """The new nodes, whose first reads `source` and these constants, and what is read in place of `rows.result`."""
    shape = shape_of(rows.x)
    own = rows.stored is None and rows.scale is not None
    scale_name = name_of(rows.scale) if own and rows.scale is not None else f"{name_of(rows.levels)}.scale"
    levels = new_value(name_of(rows.levels), dtype, shape)
    scale = new_value(scale_name, ir.DataType.FLOAT, shape[:-1])
    column = new_value(f"{scale_name}.column", ir.DataType.FLOAT, (*shape[:-1], 1))
    inputs = [source, *constants]
    kind = FLOAT8_AS_INTEGERS if dtype == FLOAT8_INTEGERS else rows.dtype
    quantize = fused("QuantizeRows", inputs, [levels, scale], {"type": kind})
    axes = _axes(graph)
    column_node = ir.node("Unsqueeze", [scale, axes], outputs=[column], name=name_of(column))
    attributes = {"axis": len(shape) - 1, "block_size": int(shape[-1])}
    back = ir.node("DequantizeLinear", [levels, column], attributes, outputs=[like(rows.result)])
    back.name = name_of(rows.result)
    anchor = rows.result.producer()
    assert anchor is not None, f"{rows.result.name} is computed"
    graph.insert_before(anchor, [quantize, column_node, back])
    return back.outputs[0]


def _constants(rows: RoundedRows, factors: ir.Value | None, order: ir.Value | None) -> list[ir.Value | None]:
    """The constants of QuantizeRows behind x, as many as there are."""
    given = [rows.stored, *(rows.limits or (None, None)), factors, order]
    while given and given[-1] is None:
        given.pop()
    return given


def _contents(constant: ir.Value | None) -> bytes:
    array = array_of(constant)
    return b"" if array is None else array.tobytes()


def _axes(graph: ir.Graph) -> ir.Value:
    name = "quantize_rows.axes"
    if name not in graph.initializers:
        value = new_value(name, ir.DataType.INT64, (1,))
        value.const_value = ir.tensor([-1], name=name)
        graph.register_initializer(value)
    return graph.initializers[name]


def _number(scale: ir.Value | None) -> float:
    array = array_of(scale)
    return 0.0 if array is None else float(array)
