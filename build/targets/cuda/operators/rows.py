"""Launches of the operators that read and write whole rows: embedding, norms, and functions of elements."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import gather_rows, layer_norm, rms_norm, row_functions
from inflight.build.graph.values import shape_of
from inflight.build.passes.pack_tokens import LOGIT_ROWS
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.places import UNUSED, Places, triton_type, width_of
from inflight.engine_format.cuda_facts import Rows

(_GATHER,) = gather_rows.SPECS
(_RMS_NORM,) = rms_norm.SPECS
(_LAYER_NORM,) = layer_norm.SPECS
(_ROW_FUNCTION,) = row_functions.SPECS


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
    operands |= {"total": UNUSED, "y": places.of(y), "y_scale": UNUSED}
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


def function(node: ir.Node, places: Places) -> PlannedLaunch:
    """Activation, RoundRows, Scale, SoftCap, ClipRows, AddRows, Gate and GateWholeRows."""
    name, first, second = _function(node)
    x, other, y = given(node, 0), input_of(node, 1), node.outputs[0]
    variant = row_functions.function_variant(
        width_of(y),
        name,
        first=first,
        second=second,
        adds=node.op_type == "AddRows",
        gates=node.op_type == "Gate",
        x=triton_type(x),
        other=triton_type(other or x),
        y=triton_type(y),
    )
    operands = {"x": places.of(x), "other": places.of(other), "y": places.of(y)}
    return PlannedLaunch.of(_ROW_FUNCTION, variant, operands, rows_of(node))


def _function(node: ir.Node) -> tuple[str, float, float]:
    """Its name, and the two numbers that it may have."""

    def number(name: str) -> float:
        return float(node.attributes[name].as_float())

    if node.op_type in ("Activation", "Gate"):
        return node.attributes["activation"].as_string(), 1.0, 0.0
    if node.op_type in ("Scale", "AddRows"):
        return "scale", number("factor"), 0.0
    if node.op_type == "SoftCap":
        return "soft_cap", number("cap"), 0.0
    if node.op_type == "ClipRows":
        return "clip", number("low"), number("high")
    return ("gate", 1.0, 0.0) if node.op_type == "GateWholeRows" else ("scale", 1.0, 0.0)
