"""Launches of products: a kernel for few rows and others for more, whose sums have the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product as product_of

import onnx_ir as ir

from inflight.build.gpu_kernels.kernels import gated_linear as gated_kernel
from inflight.build.gpu_kernels.kernels import linear as linear_kernel
from inflight.build.gpu_kernels.kernels.split_sums import row_tiles, workspace
from inflight.build.gpu_kernels.spec import KernelSpec, Variant
from inflight.build.graph.values import shape_of
from inflight.build.targets.cuda.launch_plan import PlannedLaunch
from inflight.build.targets.cuda.operators.rows import given, input_of, rows_of
from inflight.build.targets.cuda.places import Places, triton_type, width_of
from inflight.engine_format.cuda_facts import Operand

(_LINEAR,) = linear_kernel.SPECS
(_GATED,) = gated_kernel.SPECS
_FLOAT_BYTES = 4


def linear(node: ir.Node, places: Places, generations: Sequence[int]) -> PlannedLaunch:
    """Linear: a bias and the residual stream may be added."""
    x, weight, bias, residual = given(node, 0), given(node, 1), input_of(node, 2), input_of(node, 3)
    y = node.outputs[0]
    n, k = (int(dim) for dim in shape_of(weight))
    variants = {
        most: linear_kernel.linear_variant(
            n,
            k,
            tile=tile,
            has_bias=bias is not None,
            adds=residual is not None,
            x=triton_type(x),
            bias=triton_type(bias or weight),
            y=triton_type(y),
        )
        for most, tile in row_tiles(triton_type(x))
    }
    operands = {"x": places.of(x), "weight": places.of(weight), "bias": places.of(bias)}
    operands |= {"residual": places.of(residual), "y": places.of(y)}
    return product(_LINEAR, variants, operands, node, places, generations)


def gated_linear(node: ir.Node, places: Places, generations: Sequence[int]) -> PlannedLaunch:
    """GatedLinear with plain weights."""
    x, gate, up, gate_bias, up_bias = (input_of(node, place) for place in range(5))
    assert x is not None and gate is not None, f"{node.name} has no weights"
    y = node.outputs[0]
    variants = {
        most: gated_kernel.gated_variant(
            width_of(y),
            width_of(x),
            node.attributes["activation"].as_string(),
            tile=tile,
            has_bias=gate_bias is not None,
            x=triton_type(x),
            bias=triton_type(gate_bias or gate),
            y=triton_type(y),
        )
        for most, tile in row_tiles(triton_type(x))
    }
    operands = {"x": places.of(x), "gate": places.of(gate), "up": places.of(up), "y": places.of(y)}
    operands |= {"gate_bias": places.of(gate_bias), "up_bias": places.of(up_bias)}
    return product(_GATED, variants, operands, node, places, generations, parts=2)


def product(
    spec: KernelSpec,
    variants: Mapping[int | None, Variant],
    operands: dict[str, Operand],
    node: ir.Node,
    places: Places,
    generations: Sequence[int],
    parts: int = 1,
) -> PlannedLaunch:
    """`variants` by the most rows that each is launched for (`row_tiles`); `parts`: products in a launch. Adds what all
    kernels of `split_sums` take to the operands."""
    for sm, (most, variant) in product_of(generations, variants.items()):
        sums, tiles = workspace(variant, spec.tune(sm, variant), most or 0, parts)
        places.need(counters=tiles * _FLOAT_BYTES, scratch=sums * _FLOAT_BYTES)
    shared = {"partial": Operand(place="scratch"), "arrived": Operand(place="counters")}
    shared["rows"] = Operand(place="size", name="rows")
    return PlannedLaunch(spec, tuple(variants.items()), {**operands, **shared}, rows_of(node))
