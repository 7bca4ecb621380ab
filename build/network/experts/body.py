"""What a mixture of experts computes, in standard operators: every expert for every row, and most of it times zero.

Slow on purpose: this is what the operator of a target is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from inflight.build.graph.function_body import FunctionBody
from inflight.build.graph.values import new_value
from inflight.build.network.experts.inner_rows import rounded
from inflight.build.network.layers import ACTIVATIONS, BATCH, FLOAT, OPSET, STEP
from inflight.convert.checkpoint.model_spec import CLAMP_LIMIT, CLAMP_SLOPE, SCORED_BY, ExpertsSpec
from inflight.convert.quantization.schemes import RowDtype

_ROUTER_AXIS = -1


def function_graph(spec: ExpertsSpec, rows: RowDtype | None) -> ir.Graph:
    """Inputs: x [B, L, H], the router's logits [B, L, E], fc [E, 2 I, H], proj [E, H, I], and where there are some the
    biases of both, [E, 2 I] and [E, H], and that of the choice, [E]. Output: [B, L, H]. `rows`: the type to which rows
    in front of proj are rounded; None leaves them as they are.
    """
    body = FunctionBody()
    inputs = [
        new_value("x", FLOAT, (BATCH, STEP, "hidden")),
        new_value("logits", FLOAT, (BATCH, STEP, spec.count)),
        new_value("fc", FLOAT, (spec.count, 2 * spec.size, "hidden")),
        new_value("proj", FLOAT, (spec.count, "hidden", spec.size)),
    ]
    x, logits, fc, proj = inputs
    if spec.bias:
        inputs += [new_value(f"{name}_bias", FLOAT, (spec.count, size)) for name, size in _bias_sizes(spec)]
    biases = inputs[4:]
    if spec.biased_choice:
        inputs.append(new_value("choice_bias", FLOAT, (spec.count,)))
        shares = _biased(body, spec, logits, inputs[-1])
    else:
        shares = (_sparse_mixer if spec.routing == "sparse_mixer" else _top_k)(body, spec, logits)
    shares = body.op("Transpose", [shares], {"perm": [2, 0, 1]})
    shares = body.op("Unsqueeze", [shares, body.constant([3])])
    if spec.routing == "sigmoid_inputs":
        # Experts that are not chosen meet zeros, of which they make zeros: they have no biases.
        met = body.op("Mul", [body.op("Unsqueeze", [x, body.constant([0])]), shares])
        weighted = _experts(body, spec, rows, met, (fc, proj), biases)
    else:
        each = _experts(body, spec, rows, body.op("Unsqueeze", [x, body.constant([0])]), (fc, proj), biases)
        weighted = body.op("Mul", [each, shares])
    total = body.op("ReduceSum", [weighted, body.constant([0])], {"keepdims": 0})
    return ir.Graph(inputs, [total], nodes=body.nodes, opset_imports={"": OPSET}, name="experts")


def _bias_sizes(spec: ExpertsSpec) -> tuple[tuple[str, int | str], ...]:
    return (("fc", 2 * spec.size), ("proj", "hidden"))


def _experts(
    body: FunctionBody,
    spec: ExpertsSpec,
    rows: RowDtype | None,
    outer: ir.Value,
    stacks: tuple[ir.Value, ir.Value],
    biases: Sequence[ir.Value],
) -> ir.Value:
    """What every expert makes of every row it meets, [E or 1, B, L, H] -> [E, B, L, H]."""
    fc_bias, proj_bias = biases or (None, None)
    products = _added(body, body.op("MatMul", [outer, _transposed(body, stacks[0])]), fc_bias)
    up, gate = body.ops("Split", [products], 2, {"axis": -1, "num_outputs": 2})
    hidden = _gated(body, spec, gate, up)
    hidden = rounded(body, hidden, rows) if rows else hidden
    return _added(body, body.op("MatMul", [hidden, _transposed(body, stacks[1])]), proj_bias)


def _added(body: FunctionBody, rows: ir.Value, bias: ir.Value | None) -> ir.Value:
    """rows [E, B, L, out] plus the bias [E, out] of each expert."""
    return rows if bias is None else body.op("Add", [rows, body.op("Unsqueeze", [bias, body.constant([1, 2])])])


def _gated(body: FunctionBody, spec: ExpertsSpec, gate: ir.Value, up: ir.Value) -> ir.Value:
    if spec.activation != "clamped_swiglu":
        if spec.activation == "relu2":
            relu = body.op("Relu", [gate])
            return body.op("Mul", [body.op("Mul", [relu, relu]), up])
        kind, attributes = ACTIVATIONS[spec.activation]
        return body.op("Mul", [body.op(kind, [gate], attributes), up])
    least, most, one = (body.constant(number, np.float32) for number in (-CLAMP_LIMIT, CLAMP_LIMIT, 1))
    gate = body.op("Swish", [body.op("Clip", [gate, None, most])], {"alpha": CLAMP_SLOPE})
    return body.op("Mul", [body.op("Add", [body.op("Clip", [up, least, most]), one]), gate])


def _transposed(body: FunctionBody, stack: ir.Value) -> ir.Value:
    """[E, out, in] as [E, 1, in, out]."""
    turned = body.op("Transpose", [stack], {"perm": [0, 2, 1]})
    return body.op("Unsqueeze", [turned, body.constant([1])])


def _top_k(body: FunctionBody, spec: ExpertsSpec, logits: ir.Value) -> ir.Value:
    """The weight of every expert for every row, [B, L, E]; 0 of those that are not chosen."""
    allowed = _in_top_groups(body, spec, logits)
    greatest, chosen = body.ops("TopK", [allowed, body.constant([spec.top_k])], 2, {"axis": _ROUTER_AXIS})
    if spec.routing == "sigmoid_inputs":
        return _placed(body, _zeros(body, logits), chosen, body.op("Sigmoid", [greatest]))
    if spec.routing == "renormalized":
        weights = body.op("Softmax", [greatest], {"axis": _ROUTER_AXIS})
    else:
        everything = body.op("Softmax", [logits], {"axis": _ROUTER_AXIS})
        weights = body.op("GatherElements", [everything, chosen], {"axis": _ROUTER_AXIS})
    if spec.scale != 1.0:
        weights = body.op("Mul", [weights, body.constant(spec.scale, np.float32)])
    return _placed(body, _zeros(body, logits), chosen, weights)


def _biased(body: FunctionBody, spec: ExpertsSpec, logits: ir.Value, bias: ir.Value) -> ir.Value:
    """The same of experts that are chosen by their scores and a bias."""
    sigmoid = spec.routing == "biased_sigmoid"
    scores = body.op("Sigmoid", [logits]) if sigmoid else body.op("Softmax", [logits], {"axis": _ROUTER_AXIS})
    top_k, sums = body.constant([spec.top_k]), _in_top_groups(body, spec, body.op("Add", [scores, bias]))
    _, chosen = body.ops("TopK", [sums, top_k], 2, {"axis": _ROUTER_AXIS})
    weights = body.op("GatherElements", [scores, chosen], {"axis": _ROUTER_AXIS})
    total = body.op("ReduceSum", [weights, body.constant([_ROUTER_AXIS])], {"keepdims": 1})
    least, scale = (body.constant(number, np.float32) for number in (spec.epsilon, spec.scale))
    shares = body.op("Mul", [body.op("Div", [weights, body.op("Max", [total, least])]), scale])
    return _placed(body, _zeros(body, logits), chosen, shares)


def _in_top_groups(body: FunctionBody, spec: ExpertsSpec, scores: ir.Value) -> ir.Value:
    """The scores [B, L, E], those of other groups minus infinity."""
    if spec.groups == 1:
        return scores
    grouped = body.op("Reshape", [scores, body.constant([0, 0, spec.groups, spec.count // spec.groups])])
    counted = body.constant([SCORED_BY if spec.biased_choice else 1])
    greatest, _ = body.ops("TopK", [grouped, counted], 2, {"axis": -1})
    of_groups = body.op("ReduceSum", [greatest, body.constant([-1])], {"keepdims": 0})
    _, chosen = body.ops("TopK", [of_groups, body.constant([spec.top_groups])], 2, {"axis": -1})
    ones = body.op("Expand", [body.constant(1, np.float32), body.op("Shape", [chosen])])
    allowed = body.op("Greater", [_placed(body, _zeros(body, of_groups), chosen, ones), body.constant(0, np.float32)])
    allowed = body.op("Unsqueeze", [allowed, body.constant([3])])
    kept = body.op("Where", [allowed, grouped, body.constant(-np.inf, np.float32)])
    return body.op("Reshape", [kept, body.constant([0, 0, spec.count])])


def _sparse_mixer(body: FunctionBody, spec: ExpertsSpec, logits: ir.Value) -> ir.Value:
    """The same of two experts, the second chosen as if the first were not there."""
    placed, left = _zeros(body, logits), logits
    lowest, span = body.constant(-np.inf, np.float32), body.constant(2 * spec.epsilon, np.float32)
    for _ in range(2):
        greatest = body.op("ReduceMax", [left, body.constant([_ROUTER_AXIS])], {"keepdims": 1})
        chosen = body.op("ArgMax", [left], {"axis": _ROUTER_AXIS, "keepdims": 1})
        magnitude = body.op("Max", [body.op("Abs", [logits]), greatest])
        distance = body.op("Div", [body.op("Sub", [greatest, logits]), magnitude])
        near = body.op("Where", [body.op("Greater", [distance, span]), lowest, left])
        shares = body.op("Softmax", [near], {"axis": _ROUTER_AXIS})
        weight = body.op("GatherElements", [shares, chosen], {"axis": _ROUTER_AXIS})
        placed = _placed(body, placed, chosen, weight)
        left = _placed(body, left, chosen, body.op("Expand", [lowest, body.op("Shape", [chosen])]))
    return placed


def _zeros(body: FunctionBody, like: ir.Value) -> ir.Value:
    return body.op("ConstantOfShape", [body.op("Shape", [like])], {"value": ir.tensor(np.zeros(1, np.float32))})


def _placed(body: FunctionBody, rows: ir.Value, places: ir.Value, values: ir.Value) -> ir.Value:
    return body.op("ScatterElements", [rows, places, values], {"axis": _ROUTER_AXIS})
