"""Launches of the operators that read and write whole rows: embedding, norms, and functions of elements."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import gather_rows, layer_norm, qkv_norm, rms_norm, row_functions
from inflight.build.graph.operators import XIELU
from inflight.build.graph.values import shape_of
from inflight.build.passes.pack_tokens import LOGIT_ROWS
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.places import UNUSED, Places, triton_type, width_of
from inflight.engine_format.cuda_facts import Rows

(_GATHER,) = gather_rows.SPECS
(_RMS_NORM,) = rms_norm.SPECS
(_LAYER_NORM,) = layer_norm.SPECS
(_QKV_NORM,) = qkv_norm.SPECS
(_ROW_FUNCTION,) = row_functions.SPECS
# Of each operator, the function and the attributes that are its numbers.
_FUNCTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "RoundRows": ("scale", ()),
    "Scale": ("scale", ("factor",)),
    "AddRows": ("scale", ("factor",)),
    "SoftCap": ("soft_cap", ("cap",)),
    "ClipRows": ("clip", ("low", "high")),
    "Xielu": ("xielu", XIELU),
    "GateWholeRows": ("gate", ()),
}


def rows_of(node: ir.Node) -> Rows:
    """Which rows of a step the operator makes."""
    return "logit_rows" if shape_of(node.outputs[0])[0] == LOGIT_ROWS else "tokens"


def input_of(node: ir.Node, place: int) -> ir.Value | None:
    """An input, None where it is not given."""
    return node.inputs[place] if place < len(node.inputs) else None


def given(node: ir.Node, place: int) -> ir.Value:
    """An input that is always given."""
    value = input_of(node, place)
    assert value is not None, f"{node.name} has no input {place}"
    return value


def gather(node: ir.Node, places: Places) -> PlannedLaunch:
    """EmbeddingLookup (numbers, then the table) and GatherRows (rows, then numbers)."""
    is_table = node.op_type == "EmbeddingLookup"
    table, indices = (given(node, 1), given(node, 0)) if is_table else (given(node, 0), given(node, 1))
    y = node.outputs[0]
    factor = node.attributes["scale"].as_float() if is_table else 1.0
    variant = gather_rows.gather_variant(width_of(y), table=triton_type(table), y=triton_type(y), factor=factor)
    operands = {"indices": places.of(indices), "table": places.of(table), "y": places.of(y)}
    return PlannedLaunch.of(_GATHER, variant, operands, rows_of(node))


def normalize(node: ir.Node, places: Places) -> PlannedLaunch:
    """RMSNorm, which may add to the residual stream behind itself."""
    x, weight, residual, y = given(node, 0), given(node, 1), input_of(node, 2), node.outputs[0]
    variant = rms_norm.norm_variant(
        width_of(x),
        epsilon=node.attributes["epsilon"].as_float(),
        adds=False,
        adds_after=residual is not None,
        x=triton_type(x),
        delta="fp32",
        weight=triton_type(weight),
        y=triton_type(y),
    )
    operands = {"x": places.of(x), "delta": places.of(residual), "weight": places.of(weight)}
    operands |= dict.fromkeys(("stored", "low", "high", "total", "y_scale"), UNUSED) | {"y": places.of(y)}
    return PlannedLaunch.of(_RMS_NORM, variant, operands, rows_of(node))


def normalize_layer(node: ir.Node, places: Places) -> PlannedLaunch:
    """LayerNorm."""
    x, weight, bias, y = given(node, 0), given(node, 1), input_of(node, 2), node.outputs[0]
    variant = layer_norm.layer_norm_variant(
        width_of(x),
        epsilon=node.attributes["epsilon"].as_float(),
        has_bias=bias is not None,
        weight=triton_type(weight),
        bias=triton_type(bias or weight),
        y=triton_type(y),
    )
    operands = {"x": places.of(x), "weight": places.of(weight), "bias": places.of(bias), "y": places.of(y)}
    return PlannedLaunch.of(_LAYER_NORM, variant, operands, rows_of(node))


def normalize_heads(node: ir.Node, places: Places) -> PlannedLaunch:
    """QkvNorm: queries and keys, each over all heads."""
    qkv, q_norm, k_norm, y = given(node, 0), given(node, 1), given(node, 2), node.outputs[0]
    epsilon, norm = node.attributes["epsilon"].as_float(), triton_type(q_norm)
    assert triton_type(k_norm) == norm, f"{node.name} has norms of two types"
    (q_width,), (k_width,) = shape_of(q_norm), shape_of(k_norm)
    variant = qkv_norm.qkv_norm_variant(int(q_width), int(k_width), epsilon=epsilon, norm=norm)
    operands = {"qkv": places.of(qkv), "q_norm": places.of(q_norm), "k_norm": places.of(k_norm), "y": places.of(y)}
    return PlannedLaunch.of(_QKV_NORM, variant, operands, rows_of(node))


def function(node: ir.Node, places: Places) -> PlannedLaunch:
    """Activation, Xielu, RoundRows, Scale, SoftCap, ClipRows, AddRows, Gate and GateWholeRows."""
    name, numbers = _function(node)
    x, other, y = given(node, 0), input_of(node, 1), node.outputs[0]
    variant = row_functions.function_variant(
        width_of(y),
        name,
        **dict(zip(("first", "second", "third", "fourth"), numbers, strict=False)),
        adds=node.op_type == "AddRows",
        gates=node.op_type == "Gate",
        x=triton_type(x),
        other=triton_type(other or x),
        y=triton_type(y),
    )
    operands = {"x": places.of(x), "other": places.of(other), "y": places.of(y)}
    return PlannedLaunch.of(_ROW_FUNCTION, variant, operands, rows_of(node))


def _function(node: ir.Node) -> tuple[str, list[float]]:
    """Its name, and the numbers that it has."""
    if node.op_type in ("Activation", "Gate"):
        return node.attributes["activation"].as_string(), []
    name, attributes = _FUNCTIONS[node.op_type]
    return name, [float(node.attributes[each].as_float()) for each in attributes]
