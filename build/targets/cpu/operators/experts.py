"""Operators of mixtures of experts: one function for each, the call of its kernel."""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.dtypes import onnx_dtype
from inflight.build.graph.values import dtype_of, shape_of
from inflight.build.targets.cpu.float8 import FLOAT8, inner_row
from inflight.build.targets.cpu.operators.attributes import (
    activation,
    input_of,
    integer,
    number,
    optional_input,
)
from inflight.build.targets.cpu.operators.calls import Argument, KernelCall, Places
from inflight.build.targets.cpu.operators.quantized import float8_literal, quantized_literal
from inflight.build.targets.cpu.packing.weight_layout import element_of


def experts(node: ir.Node, places: Places) -> KernelCall:
    x, fc, proj, logits = (input_of(node, i) for i in range(4))
    y, scratch = node.outputs
    _, hidden, size = shape_of(proj)
    router = _router_literal(node, int(shape_of(logits)[-1]))
    shape = f"(experts_shape){{{element_of(fc)}, {activation(node)}, {router}, {hidden}, {size}}}"
    inputs = (places.rows(y), places.read(x, "const void *"))
    stacks = (places.weight("gated_experts", fc), places.weight("experts", proj), *_stack_biases(node, 5, places))
    choice = places.weight("floats", optional_input(node, 7))
    added = (places.read(logits), choice, places.read_optional(optional_input(node, 4)))
    return KernelCall(
        "mix_experts", (shape,), (*inputs, *stacks, *added, places.write(y), places.write(scratch, "void *"))
    )


def quantized_experts(node: ir.Node, places: Places) -> KernelCall:
    x, x_scale, fc, fc_scale, proj, proj_scale, logits = (input_of(node, i) for i in range(7))
    y, scratch = node.outputs
    count, rows = int(integer(node, "experts")), onnx_dtype(node.attributes["rows"].as_string())
    (fc_zero, proj_zero), (fc_codes, proj_codes), (fc_unit, proj_unit) = (
        [optional_input(node, i) for i in each] for each in ((10, 11), (12, 13), (14, 15))
    )
    fc_group, proj_group = int(integer(node, "group_size")), int(integer(node, "inner_group_size"))
    acts = f"{activation(node)}, {_router_literal(node, count)}"
    if dtype_of(fc) == dtype_of(proj) == FLOAT8:
        products = ", ".join(
            float8_literal(*each) for each in ((fc, fc_scale, fc_group), (proj, proj_scale, proj_group))
        )
        kernel, shape = "mix_float8_experts", f"(float8_experts_shape){{{products}, {inner_row(rows, proj)}, {acts}}}"
    else:
        gated = quantized_literal(fc, fc_scale, fc_group, dtype_of(x), fc_zero, fc_codes)
        projected = quantized_literal(proj, proj_scale, proj_group, rows, proj_zero, proj_codes)
        kernel, shape = "mix_quantized_experts", f"(quantized_experts_shape){{{gated}, {projected}, {acts}}}"
    inputs = (places.rows(y), places.read(x, "const void *"), places.read(x_scale))
    stacks = (
        places.weight("gated_quantized_experts", fc, fc_scale, fc_zero, fc_unit),
        places.weight("quantized_experts", proj, proj_scale, proj_zero, proj_unit),
        *_stack_biases(node, 8, places),
    )
    choice = places.weight("floats", optional_input(node, 16))
    added = (places.read(logits), choice, places.read_optional(optional_input(node, 7)))
    arguments = (*inputs, *stacks, *added, places.write(y), places.write(scratch, "void *"))
    return KernelCall(kernel, (shape,), arguments)


def _router_literal(node: ir.Node, count: int) -> str:
    """A `router_shape` of kernels/router.h."""
    routing = f"ROUTE_{node.attributes['routing'].as_string().upper()}"
    numbers = ", ".join(number(node, name) for name in ("epsilon", "scale"))
    groups = ", ".join(integer(node, name) for name in ("groups", "top_groups"))
    return f"{{{routing}, {count}, {integer(node, 'top_k')}, {numbers}, {groups}}}"


def _stack_biases(node: ir.Node, place: int, places: Places) -> tuple[Argument, Argument]:
    return (
        places.weight("gated_expert_floats", optional_input(node, place)),
        places.weight("expert_floats", optional_input(node, place + 1)),
    )
