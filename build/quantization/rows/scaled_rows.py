"""Rows that are multiplied by a stored factor for each of their values before they are rounded: a Mul by a vector.

AWQ (Lin et al., 2023) and SmoothQuant (Xiao et al., 2022) so move a part of what is hard to round from one side of a
product to the other.
"""

from __future__ import annotations

import onnx_ir as ir

from inflight.build.graph.builder import GraphBuilder
from inflight.build.graph.values import shape_of
from inflight.build.passes.rewrite import other_input, produced_by, stored

FLOAT = ir.DataType.FLOAT


def write(builder: GraphBuilder, x: ir.Value, factors: ir.Value, product: str) -> ir.Value:
    """x float32 [batch, step, K] times factors float32 [K], ahead of the product of this name."""
    return builder.op("Mul", [x, factors], f"{product}.scaled_rows", FLOAT, shape_of(x))


def find(x: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """The rows behind `x` and the factors [K] of any floating-point type, if `x` is the product of the two."""
    product = produced_by(x, "Mul")
    for operand in () if product is None else product.inputs:
        factors = stored(operand)
        if product is None or operand is None or factors is None or shape_of(factors) != shape_of(x)[-1:]:
            continue
        source = other_input(product, operand)
        if source is not None:
            return source, factors
    return None
