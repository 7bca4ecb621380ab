"""The types in which the products of a fused graph are stored and computed."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.operators import OPERATORS
from inflight.build.graph.values import dtype_of, name_of
from inflight.engine_format.manifest import Dtype, ModulePrecision

_DTYPES: dict[ir.DataType, Dtype] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.INT16: "int16",
    ir.DataType.INT8: "int8",
    ir.DataType.INT4: "int4",
}
_PRODUCTS = ("Linear", "GatedLinear", "QuantizedLinear", "QuantizedGatedLinear")
_MATRICES = ("weight", "gate", "up")


def module_precision(graph: ir.Graph) -> dict[str, ModulePrecision]:
    """Every product of the graph by the checkpoint name of its module."""
    modules = {}
    for node in graph:
        if node.op_type not in _PRODUCTS:
            continue
        rows = node.inputs[0]
        assert rows is not None, f"{node.name} has no rows"
        for name, value in zip(OPERATORS[node.op_type].inputs, node.inputs, strict=False):
            if name in _MATRICES and value is not None:
                modules[name_of(value).removesuffix(".weight")] = _precision(node, rows, value)
    return modules


def _precision(node: ir.Node, rows: ir.Value, weight: ir.Value) -> ModulePrecision:
    group_size = node.attributes.get("group_size")
    size = 0 if group_size is None else int(group_size.as_int())
    # With groups, the int32 sums of each are scaled and added in float32.
    exact = group_size is not None and size == 0
    return ModulePrecision(
        weights=_DTYPES[dtype_of(weight)],
        activations=_DTYPES[dtype_of(rows)],
        accumulation="int32" if exact else "float32",
        group_size=size,
    )
