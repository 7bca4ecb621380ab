"""The types in which the products of a fused graph are stored and computed."""

from __future__ import annotations

from typing import Literal

import onnx_ir as ir

from inflight.build.graph.dtypes import facts_of, onnx_dtype
from inflight.build.graph.operators import OPERATORS
from inflight.build.graph.quantized_rows import FLOAT8_INTEGERS, are_multiples
from inflight.build.graph.values import dtype_of, name_of, shape_of
from inflight.engine_format.manifest import ModulePrecision

_PRODUCTS = (
    "Linear",
    "GatedLinear",
    "QuantizedLinear",
    "QuantizedGatedLinear",
    "Experts",
    "QuantizedExperts",
    "HeadLinear",
)
_MATRICES = ("weight", "gate", "up", "fc", "proj")
# Of the second stack of QuantizedExperts among its inputs.
_INNER = OPERATORS["QuantizedExperts"].inputs.index("proj")


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
    held, stored = dtype_of(rows), facts_of(dtype_of(weight)).name
    inner = node.op_type == "QuantizedExperts" and weight is node.inputs[_INNER]
    if inner:
        held = onnx_dtype(node.attributes["rows"].as_string())
    read = "float8_e4m3fn" if held == FLOAT8_INTEGERS else facts_of(held).name
    if "group_size" not in node.attributes:
        return ModulePrecision(weights=stored, activations=read)
    size = int(node.attributes["inner_group_size" if inner else "group_size"].as_int())
    # With groups, the int32 sums of each are scaled and added in float32, unless scales are multiples of a unit; so are
    # products of floats.
    exact = stored.startswith("int") and (size == 0 or _has_multiples(node, weight))
    return ModulePrecision(
        weights=stored,
        activations=read,
        accumulation="int32" if exact else "float32",
        group_size=size,
        scales=_scales(node, weight, size),
    )


def _has_multiples(node: ir.Node, weight: ir.Value) -> bool:
    scale = node.inputs[list(node.inputs).index(weight) + 1]
    return scale is not None and are_multiples(scale)


def _scales(node: ir.Node, weight: ir.Value, group_size: int) -> Literal["matrix", "row", "group"]:
    """What shares a scale of `weight`, an input of `node` in front of its scales."""
    scale = node.inputs[list(node.inputs).index(weight) + 1]
    assert scale is not None, f"{weight.name} has no scales"
    if group_size:
        return "group"
    return "matrix" if shape_of(scale) == (1,) and shape_of(weight)[0] != 1 else "row"
